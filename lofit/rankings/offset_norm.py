"""Heads by the norms of offsets that are trained on all of them: LoFiT's "bias-based" ablation (section 5.1, Table 2).

The output z of every head is edited, z <- z + v_l,i, with v from N(0, 0.001), and all v are trained at once. Heads are
ranked by the Euclidean norm of v_l,i; step 2 then starts afresh. The paper names no rate and no penalty for it, and its
code does not have it: here the rate and the schedule are step 1's, and there is no penalty by default.
"""

import numpy as np

from lofit.settings import NotNegative, Positive
from lofit.training.case import Case
from lofit.training.settings import TrainingSettings

NEEDS = "subject"


class Settings(TrainingSettings):
    """As step 1, without its penalty."""

    lr: Positive = 0.01

    l1: NotNegative = 0.0
    """Weight of an L1 penalty, on the sum of absolute values."""


def rank(case: Case, settings: Settings, given: None) -> np.ndarray:
    """Norms of the trained offsets, layers x heads, by the case, a `lofit.training.subject.Subject`.

    Raises:
        LofitError: see `Subject.train`.
    """
    from lofit.adapters.heads import HeadAdapter
    from lofit.training.initial import fresh_vectors
    from lofit.training.objectives import l1_penalty
    from lofit.training.subject import Subject

    assert isinstance(case, Subject)
    layout = case.layout
    offsets = fresh_vectors(layout.size, layout.head_dim, seed=case.seed)
    adapter = HeadAdapter(layout.all_heads(), offsets=offsets)
    penalty = (lambda: l1_penalty(adapter.offsets, weight=settings.l1)) if settings.l1 else None
    case.train(adapter, settings, penalty=penalty)
    return np.linalg.norm(adapter.tensors()["offsets"].numpy(), axis=-1).reshape(layout.grid)
