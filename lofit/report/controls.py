"""Random controls as a distribution: where a row's score lies among those of draws that need no ranking.

With 10 draws the smallest p is 1/11: draws say whether a choice of heads is better than chance, not by how much two
rows differ (`lofit.report.comparison` says that).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lofit.report.markdown import from_columns
from lofit.report.rows import Cell, check_cells, record_weights, stack


@dataclass(frozen=True)
class Control:
    """The draws of one row on one task, by the task's first metric, and the reference's place among them."""

    task: str

    method: str

    metric: str

    reference: str

    draws: int

    mean: float
    """Of the draws' scores. A draw's score is a mean over seeds, folds and records."""

    lowest: float

    highest: float

    score: float
    """Of the reference."""

    rank: int
    """Place of the reference among itself and the draws, 1 for the best; a draw with the same score comes first."""

    p: float
    """(1 + draws that score at least what the reference does) / (1 + draws): one-sided."""


def controls(tasks: Mapping[str, Mapping[str, Sequence[Cell]]], *, reference: str) -> list[Control]:
    """A `Control` for each row with several draws, on each task that has the row `reference`.

    `tasks` holds, by task and method, one cell for each seed.

    Raises:
        ValueError: the cells of a task do not fit together; see `lofit.report.rows.rows_of_task`.
    """
    found = []
    for task, cells in tasks.items():
        if reference not in cells:
            continue
        check_cells(task, cells, baseline=None)
        metric = next(iter(next(iter(cells[reference][0].scores.values()))))
        score = float(scores_of_draws(cells[reference], metric).mean())
        for method, seeds in cells.items():
            draws = scores_of_draws(seeds, metric)
            if method == reference or len(draws) == 1:
                continue
            # Sums in another order differ by rounding; the same score has to count as the same.
            as_good = int((draws >= score - 1e-12).sum())
            found.append(
                Control(
                    task=task,
                    method=method,
                    metric=metric,
                    reference=reference,
                    draws=len(draws),
                    mean=float(draws.mean()),
                    lowest=float(draws.min()),
                    highest=float(draws.max()),
                    score=score,
                    rank=1 + as_good,
                    p=(1 + as_good) / (1 + len(draws)),
                )
            )
    return found


def scores_of_draws(seeds: Sequence[Cell], metric: str) -> np.ndarray:
    """The score of each draw: its mean over seeds, and over records with each fold counted alike."""
    sizes = {fold: len(scores[metric]) for (_, fold), scores in seeds[0].scores.items()}
    weights = record_weights(np.repeat(list(sizes), list(sizes.values())))
    return stack(seeds, metric, list(sizes)).mean(axis=0) @ weights


def control_table(found: Sequence[Control]) -> str:
    """A Markdown table with a line for each task and row of draws; empty where no row has several."""
    if not found:
        return ""
    reference = found[0].reference
    return from_columns(
        {
            "task": [control.task for control in found],
            "draws of": [control.method for control in found],
            "draws": [str(control.draws) for control in found],
            "mean": [f"{control.mean:.3f}" for control in found],
            "lowest": [f"{control.lowest:.3f}" for control in found],
            "highest": [f"{control.highest:.3f}" for control in found],
            reference: [f"{control.score:.3f}" for control in found],
            f"rank of {reference}": [f"{control.rank} of {control.draws + 1}" for control in found],
            "p": [f"{control.p:.3f}" for control in found],
        }
    )
