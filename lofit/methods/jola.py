"""JoLA: joint localization and activation editing (Lai, Fraser and Titov, ICML 2025, arXiv 2502.01179).

The output z of every head (l, i) is edited at every token position, before the output projection:

    z <- (1 + g2_l,i * A_l,i) * z + g1_l,i * v_l,i

A and v, from N(0, 0.001), are trained together with the gates g1 and g2, so that heads are chosen in the same step. A
gate is hard concrete, and can be exactly 0 or 1:

    g = clamp(1.2 * sigmoid((ln u - ln(1 - u) + log_g) / 0.33) - 0.1, 0, 1)     in training, u uniform
    g = clamp(1.2 * sigmoid(log_g) - 0.1, 0, 1)                                 afterwards

with one u for each gate and training step; log_g starts from U(-a, a), a = sqrt(6 / (heads + 1)). The chance that a
gate is open in training is p(g) = sigmoid(log_g - 0.33 ln(0.1 / 1.1)). `penalty: paper` minimises

    loss + lam * mean of p over the 2 * layers * heads gates

`penalty: published` is what the published code does instead, with t training steps done before and mean_i over the
heads of a layer:

    loss + [lam_t * sum_l mean_i p(g1) + (1 - lam_t) * sum_l mean_i p(g2)] / (layers * heads),  lam_t = 0.1 exp(-0.01 t)

It divides by the number of heads twice, and lets the offsets' gates go. (There t counts evaluations, too.)

After training the gates are folded into the vectors and heads without either are dropped: a plain HeadAdapter. Other
than the published code we have linear decay without warm-up, as all rows have, and stop early only with `stop_after`.
"""

import math
import sys
from typing import TYPE_CHECKING, Literal

from lofit.models.layout import Head
from lofit.settings import Count, NotNegative, Positive
from lofit.training.settings import TrainingSettings

if TYPE_CHECKING:
    # Whoever reads the settings alone should not wait for torch to load.
    from torch import Tensor

    from lofit.adapters.gates import GatedHeads
    from lofit.adapters.heads import HeadAdapter
    from lofit.training.subject import Subject

RANKING = None


class Settings(TrainingSettings):
    """One step, all heads."""

    lr: Positive = 0.005

    epochs: Count = 20

    penalty: Literal["paper", "published"] = "paper"
    """What pushes gates shut: one weight for all of them, or the published code's decaying ones."""

    lam: NotNegative = 0.01
    """Weight of the paper's penalty; the published one brings its own."""


def fit(subject: "Subject", settings: Settings, heads: list[Head]) -> "HeadAdapter":
    """Train scales, offsets and gates of every head; returns what the gates let through.

    Where they let nothing through, the adapter is empty, and a warning says so.
    """
    adapter = fresh(subject)

    def penalty() -> "Tensor":
        if settings.penalty == "paper":
            return settings.lam * adapter.chances().mean()
        return published_penalty(adapter.chances(), *subject.layout.grid, adapter.step)

    subject.train(adapter, settings, penalty=penalty)
    folded = adapter.folded()
    gates = adapter.gates().detach()
    print(
        f"{subject.title}: {int((gates > 0).sum())} of {gates.numel()} gates are open, {gates.mean():.2f} on average",
        file=sys.stderr,
    )
    if not folded.heads:
        print(f"warning: {subject.title}: no gate is open, the model stays as it is; lower lam", file=sys.stderr)
    return folded


def fresh(subject: "Subject") -> "GatedHeads":
    """Scales, offsets and gates before training; scales, offsets and gates have seeds of their own."""
    import torch

    from lofit.adapters.gates import GatedHeads
    from lofit.training.initial import fresh_vectors

    layout, seed = subject.layout, subject.seed
    bound = (6 / (layout.num_heads + 1)) ** 0.5
    uniform = torch.rand(2, layout.size, generator=torch.Generator().manual_seed(seed + 2))
    return GatedHeads(
        layout.all_heads(),
        scales=fresh_vectors(layout.size, layout.head_dim, seed=seed + 1),
        offsets=fresh_vectors(layout.size, layout.head_dim, seed=seed),
        log_gates=bound * (2 * uniform - 1),
        seed=seed,
    )


def published_penalty(chances: "Tensor", layers: int, heads: int, step: int) -> "Tensor":
    """The published code's penalty.

    Args:
        chances: 2 x (layers * heads), those of offsets and then those of scales.
        step: how many training steps came before.
    """
    lam = 0.1 * math.exp(-0.01 * step)
    offsets, scales = chances.view(2, layers, heads).mean(-1).sum(-1)
    return (lam * offsets + (1 - lam) * scales) / (layers * heads)
