"""The embedded base model: a tiny Llama trained from scratch on a generated world, for runs without any download."""

from lofit.demo.pretrain import build
from lofit.demo.recipe import Recipe

__all__ = ["Recipe", "build"]
