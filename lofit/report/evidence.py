"""What a study reads, the finished cells of a run, and what it makes of them: one table and one figure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from lofit.errors import LofitError
from lofit.report.rows import Cell, Row, primary_rows, rows_of_task
from lofit.settings import Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Heads = frozenset[tuple[int, int]]
"""A set of (layer, head)."""


@dataclass(frozen=True)
class Choice:
    """How a row of LoFiT chooses heads on a task."""

    ranking: str

    settings: Mapping[str, Any] = field(default_factory=dict)
    """Those of the ranking."""


@dataclass(frozen=True)
class Evidence:
    """The finished cells of a run, and what was asked of each."""

    model: str

    shape: tuple[int, int]
    """Layers, and heads in each."""

    seeds: Sequence[int]

    cells: Mapping[str, Mapping[str, Sequence[Cell]]]
    """By task and row: a cell for each seed."""

    choices: Mapping[str, Mapping[str, Choice]]
    """By task and row, for the rows of LoFiT."""

    kinds: Mapping[str, str]
    """What kind each task is of; tasks that differ in their settings alone share one."""

    train_sizes: Mapping[str, int]
    """How many examples each task's step 1 and step 2 train on, as a mean over folds."""

    baseline: str | None = None
    """The row of the untouched model, where there is one."""

    @property
    def tasks(self) -> list[str]:
        return list(self.cells)

    @property
    def number_of_heads(self) -> int:
        """Of the model."""
        return self.shape[0] * self.shape[1]

    def rows(self, task: str, names: Iterable[str]) -> list[Row]:
        """These rows on a task by its first metric, in this order; those that the task lacks are left out."""
        cells = {name: self.cells[task][name] for name in names if name in self.cells[task]}
        return primary_rows(rows_of_task(task, cells, baseline=None)) if cells else []

    def rows_by_step_1(self) -> list[str]:
        """The rows whose heads are those that step 1 has chosen on their own task."""
        found = (
            row for rows in self.choices.values() for row, choice in rows.items() if choice.ranking == "scale_norm"
        )
        return list(dict.fromkeys(found))

    def main_row(self, given: str | None) -> str:
        """The row that a study is about: the one that it names, or the first whose heads step 1 has chosen.

        Raises:
            LofitError: there is none.
        """
        rows = [given] if given is not None else self.rows_by_step_1()
        if not rows:
            raise LofitError("row: got none whose heads step 1 has chosen; expected one in run.methods")
        return rows[0]

    def lofit_rows(self) -> list[str]:
        return list(dict.fromkeys(row for rows in self.choices.values() for row in rows))

    def heads(self, task: str, row: str) -> dict[str, Heads]:
        """The heads of each part of a row, by what tells the part from others: `seed 42`, `seed 42, fold 1`, ...

        Nothing for a row that the task lacks.
        """
        cells = self.cells[task].get(row, [])
        several = {
            "draw": len({draw for cell in cells for draw, _ in cell.heads}) > 1,
            "fold": len({fold for cell in cells for _, fold in cell.heads}) > 1,
        }
        found = {}
        for seed, cell in zip(self.seeds if cells else [], cells, strict=True):
            for (draw, fold), heads in sorted(cell.heads.items()):
                parts = [f"seed {seed}", *([f"draw {draw}"] * several["draw"]), *([f"fold {fold}"] * several["fold"])]
                found[", ".join(parts)] = frozenset(heads)
        return found

    def caption(self, tasks: Sequence[str], *, shown: str = "bars: 95 % bootstrap interval over questions") -> str:
        """What stands below a figure: the model, the questions of each task, the seeds, and what a bar or band is."""
        questions = ", ".join(f"{task} n = {self.questions(task)}" for task in tasks)
        seeds = ", ".join(map(str, self.seeds))
        return f"{self.model}; {questions}; seed{'s' * (len(self.seeds) > 1)} {seeds}; {shown}"

    def questions(self, task: str) -> int:
        """How many questions a row is scored on, over all folds."""
        cell = next(iter(self.cells[task].values()))[0]
        draw = min(draw for draw, _ in cell.scores)
        return sum(len(next(iter(scores.values()))) for (other, _), scores in cell.scores.items() if other == draw)


class StudySettings(Settings):
    """The settings of a study, which name rows and tasks of the run."""

    def named(self) -> Iterator[tuple[str, str]]:
        """The rows and tasks that are named, each with what it is."""
        for key in ("row", "own", "reference"):
            if (name := getattr(self, key, None)) is not None:
                yield "row", name
        yield from (("row", name) for name in getattr(self, "rows", ()))
        yield from (("task", name) for names in getattr(self, "series", {}).values() for name in names)


@dataclass(frozen=True)
class Study:
    """What a study has found."""

    table: Sequence[Mapping[str, Any]]
    """Lines with the same keys: numbers, texts, and None for what there is not."""

    figure: Figure

    words: str
    """How to read both, in a paragraph."""

    short: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The columns of a smaller table, as it stands in the paper; empty for none."""


def jaccard(one: Heads, other: Heads) -> float:
    """The share of the heads of either set that are in both; of two empty sets 1."""
    return len(one & other) / len(one | other) if one | other else 1.0


def expected_jaccard(k: int, other: int, heads: int) -> float:
    """The Jaccard index of two random sets of `k` and `other` of `heads` heads, if they share as many as expected."""
    both = k * other / heads
    return both / (k + other - both)


def mean_jaccard(sets: Sequence[Heads]) -> float | None:
    """The mean over all pairs; None for a single set."""
    pairs = [jaccard(one, other) for one, other in combinations(sets, 2)]
    return float(np.mean(pairs)) if pairs else None
