"""Heads that survive a group penalty in step 1: exact zeros in place of small norms (after Yuan and Lin 2006).

Step 1 penalises each number of the scales by itself, but ranks heads. Here the penalty is that of heads,

    loss + lam * sum over heads of sqrt(head_dim) * ||A_l,i||_2

which a proximal step after each update of rate lr minimises (ISTA's, Beck and Teboulle 2009):

    A_l,i <- A_l,i * max(0, 1 - lr * lam * sqrt(head_dim) / ||A_l,i||)

A head ranks by its norm; one that is exactly zero in the end cannot be chosen, so lam bounds k. It is a ranking
of ours, not of the paper. AdamW divides a gradient by its size, so lam, unlike step 1's l1, has no unit of the loss: a
head whose numbers all move the same way in every step moves by lr * sqrt(head_dim), and lam = 1 takes as much back.
"""

import numpy as np

from lofit.settings import NotNegative, Positive
from lofit.training.case import Case
from lofit.training.settings import TrainingSettings

NEEDS = "subject"


class Settings(TrainingSettings):
    """As step 1, with another penalty."""

    lr: Positive = 0.01

    lam: NotNegative = 0.1
    """Weight of the penalty: at 1, hardly a head survives."""


def rank(case: Case, settings: Settings, given: None) -> np.ndarray:
    """Norms of the scales, layers x heads, minus infinity where they are zero, by the case, a `Subject`.

    Raises:
        LofitError: see `Subject.train`.
    """
    from lofit.adapters.group_lasso_heads import GroupLassoHeads
    from lofit.training.initial import fresh_vectors
    from lofit.training.subject import Subject

    assert isinstance(case, Subject)
    layout = case.layout
    scales = fresh_vectors(layout.size, layout.head_dim, seed=case.seed)
    adapter = GroupLassoHeads(layout.all_heads(), scales=scales, lam=settings.lam)
    case.train(adapter, settings, penalty=lambda: adapter.group_norm().detach())
    norms = np.linalg.norm(adapter.tensors()["scales"].numpy(), axis=-1)
    return np.where(norms > 0, norms, -np.inf).reshape(layout.grid)
