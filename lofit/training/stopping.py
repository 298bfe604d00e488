"""Early stopping: which epoch is the best one by the validation records, and when no better one is waited for.

A run's history alone says so, so that a resumed run decides as an unbroken one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lofit.errors import LofitError
from lofit.training.settings import TrainingSettings

History = Sequence[Mapping[str, Any]]
"""Rows of steps; the last one of an epoch says `val_loss`, where it was measured."""


def best_epoch(history: History) -> int | None:
    """The epoch after which the loss on the validation records was lowest, from 1; the first of several, or None."""
    measured = [(row["val_loss"], row["epoch"]) for row in history if "val_loss" in row]
    return min(measured)[1] if measured else None


def is_over(history: History, stop_after: int | None) -> bool:
    """Whether the last `stop_after` epochs were no better than one before them; False where that is None."""
    best = best_epoch(history)
    if best is None or stop_after is None:
        return False
    return max(row["epoch"] for row in history if "val_loss" in row) - best >= stop_after


def refuse_blind_stop(settings: TrainingSettings, val: Sequence[Any]) -> None:
    """A LofitError where training should stop by validation records, and there are none."""
    if settings.stop_after is not None and not val:
        raise LofitError(
            f"stop_after: got {settings.stop_after}, but no validation records (val); expected some to stop by, or null"
        )
