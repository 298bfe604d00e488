"""GatedHeads: scales and offsets of heads behind gates that training opens and shuts (hard concrete, Louizos et al.).

It exists while JoLA is trained; `folded` then makes an ordinary HeadAdapter of it.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lofit.adapters.attachment import Attachment, attach
from lofit.adapters.base import Adapter
from lofit.adapters.heads import HeadAdapter
from lofit.adapters.provenance import Provenance
from lofit.models.layout import Head, HeadLayout, head_layout

TEMPERATURE = 0.33
LOW, HIGH = -0.1, 1.1
"""What a gate is stretched to before it is cut off at 0 and 1, so that it can be exactly either."""

EPS = 1e-6
"""How far uniform noise and probabilities stay from 0 and 1."""


class GatedHeads(Adapter):
    """z becomes `(1 + g2 * scale) * z + g1 * offset`, with two gates from 0 to 1 for each of K heads.

    Args:
        heads: K pairs (layer, head).
        scales, offsets: K x head_dim each, what training starts from.
        log_gates: 2 x K, what the gates start from: those of offsets (g1), then those of scales (g2).
        seed: decides the noise of each training step, with the number of the step alone.

    Between `begin_step` and `end_step` gates are noisy, one draw for each gate; otherwise they are a function of
    `log_gates`.
    """

    site = "head outputs"

    def __init__(self, heads: Sequence[Head], scales: Tensor, offsets: Tensor, log_gates: Tensor, *, seed: int) -> None:
        super().__init__()
        self.provenance = Provenance()
        self.heads: list[Head] = list(heads)
        self.seed = seed
        self.free_scales = nn.Parameter(scales.detach().clone().float())
        self.free_offsets = nn.Parameter(offsets.detach().clone().float())
        self.log_gates = nn.Parameter(log_gates.detach().clone().float())
        self._noise: Tensor | None = None
        self._step = 0

    @property
    def step(self) -> int:
        """The training step that is being made or was the last one, from 0."""
        return self._step

    def begin_step(self, step: int) -> None:
        self._step = step
        # A seed of its own for each step; one Generator's seed has 64 bits.
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        uniform = EPS + (1 - 2 * EPS) * torch.rand(self.log_gates.shape, generator=generator)
        self._noise = uniform.to(self.log_gates.device)

    def end_step(self, lr: float) -> None:
        self._noise = None

    def gates(self) -> Tensor:
        """2 x K numbers from 0 to 1: g1 of the offsets, g2 of the scales."""
        if self._noise is None:
            sigmoid = self.log_gates.sigmoid()
        else:
            sigmoid = ((self._noise.log() - (1 - self._noise).log() + self.log_gates) / TEMPERATURE).sigmoid()
        return ((HIGH - LOW) * sigmoid + LOW).clamp(0, 1)

    def chances(self) -> Tensor:
        """2 x K: how likely the noise is to leave each gate open, in the order of `gates`."""
        return (self.log_gates - TEMPERATURE * math.log(-LOW / HIGH)).sigmoid().clamp(EPS, 1 - EPS)

    @property
    def scales(self) -> Tensor:
        """K x head_dim, as they act now."""
        return self.gates()[1, :, None] * self.free_scales

    @property
    def offsets(self) -> Tensor:
        """K x head_dim, as they act now."""
        return self.gates()[0, :, None] * self.free_offsets

    @property
    def head_dim(self) -> int:
        return int(self.free_scales.shape[1])

    @property
    def lowest_layer(self) -> int | None:
        return min((layer for layer, _ in self.heads), default=None)

    def attach(self, model: nn.Module, layout: HeadLayout | None = None) -> Attachment:
        """Edit the heads of `model` until `detach()` or the end of the `with` block."""
        return attach(self, model, layout or head_layout(model))

    @torch.no_grad()
    def folded(self) -> HeadAdapter:
        """The same edit without gates: what they let through, and the heads where that is anything but zeros."""
        scales, offsets = self.scales, self.offsets
        kept = (scales.any(1) | offsets.any(1)).nonzero().flatten().tolist()
        if not kept:
            return HeadAdapter([])
        return HeadAdapter([self.heads[row] for row in kept], offsets=offsets[kept], scales=scales[kept])
