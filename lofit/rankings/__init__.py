"""Rankings: which heads of a model to tune, best first.

A ranking is a module of this package, found by its name. It holds

- `Settings`, its settings, a subclass of `lofit.settings.Settings`;
- `rank(case, settings, given)`, which returns layers x heads scores, the highest for the best head and minus infinity
  for one that cannot be chosen (`case` is a `lofit.training.case.Case`: layout, task, seed, draw);
- `NEEDS`, which says what the ranking waits for, and what `given` is:
    - "scales": the scales that step 1 has trained on the task itself, layers x heads x head_dim;
    - "other_scales": those of another task;
    - "activations": what heads put out on true and false answers, a `lofit.training.activations.Activations`;
    - "subject": None, but `case` is the whole `Subject`, with model and records;
    - None: None, and the case is enough.

A ranking whose settings have `draws` is random: it is drawn that many times, and `case.draw` says which one it is.
"""

from collections.abc import Sequence
from types import ModuleType

import numpy as np

from lofit.errors import LofitError
from lofit.models.layout import Head
from lofit.pages import find_page, page_names

PACKAGE = "lofit.rankings"
NEEDS = ("scales", "other_scales", "activations", "subject", None)


def find(name: str) -> ModuleType:
    """The ranking called `name`.

    Raises:
        LofitError: there is none.
    """
    return find_page(PACKAGE, name, what="ranking")


def names() -> list[str]:
    """All rankings that there are."""
    return page_names(PACKAGE)


def top_heads(scores: np.ndarray, k: int) -> list[Head]:
    """The `k` heads of the highest scores, best first, ties by (layer, head).

    Args:
        scores: layers x heads; minus infinity for a head that cannot be chosen.

    Raises:
        LofitError: fewer than `k` heads can be chosen.
    """
    usable = int((scores > -np.inf).sum())
    if not 1 <= k <= usable:
        raise LofitError(f"k: got {k}; expected 1 to {usable}, the heads that are ranked")
    order = np.argsort(-scores, axis=None, kind="stable")[:k]
    return [(int(index // scores.shape[1]), int(index % scores.shape[1])) for index in order]


def scores_of(order: Sequence[Head], size: tuple[int, int]) -> np.ndarray:
    """Scores that rank heads in this order, best first; those that it leaves out cannot be chosen."""
    scores = np.full(size, -np.inf)
    for place, head in enumerate(order):
        scores[head] = -place
    return scores
