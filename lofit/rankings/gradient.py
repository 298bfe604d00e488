"""Heads by the gradient of their offsets before any training: one pass over the records, no rate, no step.

With g_n = dL_n / dv_l,i at v = 0, the gradient of record n's own loss by an offset of head (l, i) at every position,
and with mean and variance over the N training records, each number of the head by itself,

    score: norm              || mean g ||
    score: standard_error    sum over the head's numbers of  (mean g)^2 / (var g / N)

It is a ranking of ours, not of the paper: what the first step of training all offsets sees. Where a gradient is large
is not where an offset helps: in first tries on a real model of 135M parameters both scores lost to LoFiT's heads and
to random ones. They stand here as controls.
"""

from typing import Literal

import numpy as np

from lofit.errors import LofitError
from lofit.settings import Count, Positive
from lofit.settings import Settings as BaseSettings
from lofit.training.case import Case

NEEDS = "subject"


class Settings(BaseSettings):
    score: Literal["norm", "standard_error"] = "norm"
    """The norm of the mean gradient, or how many standard errors it is from zero, squared and summed."""

    beta: Positive = 0.5
    """DPO's beta; cross-entropy ignores it."""

    max_length: Count = 512
    """Longest training sequence, in tokens."""


def rank(case: Case, settings: Settings, given: None) -> np.ndarray:
    """The score of each head, layers x heads, by the case, a `lofit.training.subject.Subject`.

    Raises:
        LofitError: there is one record alone, and a standard error is asked for.
    """
    import torch

    from lofit.adapters.heads import HeadAdapter
    from lofit.training.subject import Subject

    assert isinstance(case, Subject)
    layout, count = case.layout, len(case.records)
    if settings.score == "standard_error" and count < 2:
        raise LofitError(f"score: got standard_error for {count} record; expected at least 2")
    adapter = HeadAdapter(layout.all_heads(), offsets=torch.zeros(layout.size, layout.head_dim))
    (offsets,) = adapter.parameters()
    mean = np.zeros((layout.size, layout.head_dim))
    squares = np.zeros_like(mean)
    for number, loss in enumerate(case.record_losses(adapter, settings), 1):
        (gradient,) = torch.autograd.grad(loss, offsets)
        # Welford: the difference of two large sums would lose a small variance.
        difference = gradient.double().cpu().numpy() - mean
        mean += difference / number
        squares += difference**2 * (number - 1) / number
    if settings.score == "norm":
        scores = np.linalg.norm(mean, axis=-1)
    else:
        error = squares / max(count - 1, 1) / count
        # What is the same for every record, as the zeros of a head that nothing depends on, has no standard error.
        scores = np.divide(mean**2, error, out=np.zeros_like(mean), where=error > 0).sum(-1)
    return scores.reshape(layout.grid)
