"""The edit as the published code has it: in each layer a Python loop over all heads, whichever are trained."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lofit.adapters.heads import HeadAdapter
from lofit.models.layout import HeadLayout


class LoopOverHeads:
    """A scale and an offset for every head of a model; those of `adapter` are trained, all others are zeros.

    Each head's slice is cloned, edited and written back in place (`LlamaAttention.forward` in models/modeling_llama.py
    of github.com/fc2869/lo-fit).
    """

    def __init__(self, adapter: HeadAdapter, layout: HeadLayout, device: torch.device) -> None:
        self.layout = layout
        self.vectors = {
            name: {head: torch.zeros(layout.head_dim, device=device) for head in layout.all_heads()}
            for name in ("scales", "offsets")
        }
        self.trained: list[Tensor] = []
        """The leaves, in the order of the adapter's heads."""
        for name, rows in adapter.vectors().items():
            for head, row in zip(adapter.heads, rows, strict=True):
                self.vectors[name][head] = row.detach().clone().requires_grad_()
                self.trained.append(self.vectors[name][head])

    @contextmanager
    def attached(self, model: nn.Module, *, clone: bool = False) -> Iterator[None]:
        """Edit the heads of `model` within the block.

        `clone` copies the input of a projection first: a fused attention kernel keeps its output for the backward
        pass, so that it must not be written to.
        """
        handles = [
            model.get_submodule(path).register_forward_pre_hook(
                lambda _, args, layer=layer: (self.edited(args[0].clone() if clone else args[0], layer), *args[1:])
            )
            for layer, path in enumerate(self.layout.projections)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def edited(self, z: Tensor, layer: int) -> Tensor:
        size = self.layout.head_dim
        for head in range(self.layout.num_heads):
            scale, offset = (self.vectors[name][layer, head] for name in ("scales", "offsets"))
            at = slice(head * size, (head + 1) * size)
            z[..., at] = torch.mul(scale + 1, z[..., at].clone()) + offset
        return z
