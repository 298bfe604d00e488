"""GroupLassoHeads: scales of heads that a proximal step shrinks after each update, to exact zeros head by head."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lofit.adapters.heads import HeadAdapter
from lofit.models.layout import Head


class GroupLassoHeads(HeadAdapter):
    """A HeadAdapter of scales alone, K x head_dim, under the penalty lam * sum of sqrt(head_dim) * ||scale||_2."""

    def __init__(self, heads: Sequence[Head], *, scales: Tensor, lam: float) -> None:
        super().__init__(heads, scales=scales)
        self.lam = lam

    def group_norm(self) -> Tensor:
        """The penalty, one number."""
        assert self.scales is not None
        return self.lam * self.scales.shape[1] ** 0.5 * self.scales.norm(dim=1).sum()

    @torch.no_grad()
    def end_step(self, lr: float) -> None:
        assert self.scales is not None
        self.scales.copy_(shrunk(self.scales, lr * self.lam * self.scales.shape[1] ** 0.5))


def shrunk(vectors: Tensor, by: float) -> Tensor:
    """K x d vectors, each shorter by `by`, and zero where it is no longer than that."""
    norms = vectors.norm(dim=1, keepdim=True)
    # The factor of a zero vector would be NaN.
    return torch.where(norms > by, vectors * (1 - by / norms), 0.0)
