"""No method: the untouched base model, which gains are measured against."""

from typing import TYPE_CHECKING

from lofit.models.layout import Head
from lofit.settings import Settings as BaseSettings

if TYPE_CHECKING:
    # Whoever reads the settings alone should not wait for torch to load.
    from lofit.adapters.heads import HeadAdapter
    from lofit.training.subject import Subject

RANKING = None


class Settings(BaseSettings):
    """There is nothing to set."""


def fit(subject: "Subject", settings: Settings, heads: list[Head]) -> "HeadAdapter":
    """An adapter that edits nothing."""
    from lofit.adapters.heads import HeadAdapter

    return HeadAdapter([])
