"""LoFiT's own ranking: the norms of the scales that its step 1 trains (Yin et al. 2024, section 3).

Step 1 multiplies the output z of every head (l, i) by a trained vector, z <- (1 + A_l,i) * z, and minimises

    loss + l1 * sum |A_l,i|

over all A at once (equation 2; the sum, not the mean, as in the published code). Heads are ranked by the Euclidean
norm of A_l,i. Step 2, which tunes offsets of the best K, is `lofit.methods.lofit`.
"""

import sys
from typing import TYPE_CHECKING

import numpy as np

from lofit.settings import NotNegative, Positive
from lofit.settings import Settings as NoSettings
from lofit.training.case import Case
from lofit.training.settings import TrainingSettings

if TYPE_CHECKING:
    # Whoever ranks by scales that are trained, or reads the settings, should not wait for torch to load.
    from lofit.adapters.heads import HeadAdapter
    from lofit.training.subject import Subject

NEEDS = "scales"

NEAR_ZERO = 0.02
"""A head whose scales have less than this share of the largest norm is ranked by noise."""


class Settings(NoSettings):
    """The norms need none."""


class ScaleSettings(TrainingSettings):
    """Step 1."""

    lr: Positive = 0.01

    l1: NotNegative = 0.01
    """Weight of the L1 penalty, on the sum of absolute values."""


def train_scales(subject: "Subject", settings: ScaleSettings) -> "HeadAdapter":
    """Train a scaling vector for every head of the model."""
    from lofit.adapters.heads import HeadAdapter
    from lofit.training.initial import fresh_vectors
    from lofit.training.objectives import l1_penalty

    layout = subject.layout
    scales = fresh_vectors(layout.size, layout.head_dim, seed=subject.seed)
    adapter = HeadAdapter(layout.all_heads(), scales=scales)
    subject.train(adapter, settings, penalty=lambda: l1_penalty(adapter.scales, weight=settings.l1))
    return adapter


def rank(case: Case, settings: Settings, scales: np.ndarray) -> np.ndarray:
    """Norms of the scales, layers x heads."""
    return np.linalg.norm(scales, axis=-1)


def warn_of_noise(norms: np.ndarray, k: int) -> None:
    """Say so where some of the first `k` heads have scales that the L1 penalty has pushed to (almost) nothing."""
    silent = heads_near_zero(norms, k)
    if silent:
        print(
            f"warning: {silent} of the {k} heads have scales of almost nothing and are ranked by noise; lower l1 or k",
            file=sys.stderr,
        )


def heads_near_zero(norms: np.ndarray, k: int) -> int:
    """How many of the top `k` heads have a norm below `NEAR_ZERO` of the largest: the penalty is too strong for `k`."""
    return int((np.sort(norms, axis=None)[::-1][:k] <= NEAR_ZERO * norms.max()).sum())
