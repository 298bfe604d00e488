"""The rows of the results: scores with their intervals, and what was measured of each row besides.

A method on a task has one cell for each seed. A cell has one or more draws of heads, and a draw has one or more folds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lofit.storage.tables import Part

RESAMPLES = 2000

CHUNK = 100
"""How many resamples are held at a time."""


@dataclass(frozen=True)
class Facts:
    """What a method is, whatever it scores: for the table that says what each row is."""

    kind: str = ""
    """The kind of adapter."""

    site: str = ""
    """What it changes: `head outputs`, `block outputs`, ..."""

    where: str = ""
    """At which token positions it acts."""

    served_as: str | None = None
    """What an engine without lofit can run of it; None where there is nothing."""

    numbers: int | None = None
    """The numbers that one adapter holds, trained or computed; None where only the trained ones are known."""

    adapter_bytes: int | None = None
    """Size of one adapter's tensors on disk."""

    configurations: int = 1
    """How many settings were tried on validation records; 1 where nothing was searched."""


@dataclass(frozen=True)
class Row:
    """One metric of one method on one task, over all seeds, draws and folds."""

    task: str

    method: str

    metric: str

    score: float
    """Mean over records, folds, draws and seeds. Each fold counts the same, whatever its number of records."""

    low: float
    """Lower end of the 95 % interval of `score`."""

    high: float

    gain: float | None
    """Score minus that of the baseline, on the same records. None for the baseline, and where there is none."""

    gain_low: float | None
    """Lower end of the 95 % interval of `gain`."""

    gain_high: float | None

    draws: int
    """Number of draws of heads; 1 for a method that does not draw."""

    lowest: float | None
    """The lowest score of a draw, over seeds and folds. None with one draw."""

    highest: float | None

    trained_parameters: int

    heads: tuple[str, ...]
    """For each draw, the heads of each seed and fold as layer.head: `3.1 0.7; 3.1 2.2`."""

    facts: Facts = Facts()

    share: float | None = None
    """Trained parameters in % of the model's; None where the model's size is not given."""

    ce: float | None = None
    """What a neutral text costs the edited model more than the base, in nats per token; None where not measured."""

    kl: float | None = None
    """KL(base || edited) on that text, in nats per token."""

    reference: str | None = None
    """The method that `difference` is measured against; None where the row was not compared."""

    difference: float | None = None
    """Score minus that of the reference, on the same records."""

    difference_low: float | None = None
    """Lower end of the 95 % interval of `difference`."""

    difference_high: float | None = None

    p: float | None = None
    """Two-sided p of `difference`."""

    corrected_p: float | None = None
    """`p` after Holm's correction over all comparisons of the report."""

    @property
    def numbers(self) -> int:
        """The numbers that its adapter holds; the trained ones where no more is known."""
        return self.trained_parameters if self.facts.numbers is None else self.facts.numbers


@dataclass(frozen=True)
class Cell:
    """The results of one method on one task with one seed."""

    scores: Mapping[Part, Mapping[str, np.ndarray]]
    """By draw and fold, then by metric: one number for each record of the fold."""

    heads: Mapping[Part, Sequence[tuple[int, int]]]
    """By draw and fold: (layer, head). A part without heads may be left out."""

    trained_parameters: int

    facts: Facts = Facts()

    drift: Mapping[Part, Mapping[str, float]] = field(default_factory=dict)
    """By draw and fold: `ce` and `kl`, as `lofit.scoring.drift` measures them; empty where nothing was measured."""


def rows_of_task(
    task: str, cells: Mapping[str, Sequence[Cell]], *, baseline: str | None, model_size: int | None = None
) -> list[Row]:
    """The rows of a task, metric by metric. Within a metric, the methods keep the order of `cells`.

    `cells` holds, by method, one cell for each seed; all methods list the seeds in the same order. Gains are measured
    against the method `baseline`. It has one draw, and each draw of another method is compared with it, seed by seed.
    `model_size` is the number of the model's parameters. What a row is compared with comes later
    (`lofit.report.comparison`).

    Raises:
        ValueError: The cells differ in their seeds, folds, metrics or number of records; the cells of one method
            differ in their draws; or the baseline has several draws.
    """
    check_cells(task, cells, baseline=baseline)
    ((first, *_), *_) = cells.values()
    sizes = {fold: len(next(iter(scores.values()))) for (_, fold), scores in first.scores.items()}
    folds = np.repeat(list(sizes), list(sizes.values()))
    weights = record_weights(folds)
    rows = []
    for metric in next(iter(first.scores.values())):
        scores = {method: stack(seeds, metric, list(sizes)) for method, seeds in cells.items()}
        for method, seeds in cells.items():
            score, low, high = mean_and_interval(scores[method], weights)
            gain = gain_low = gain_high = None
            if baseline is not None and baseline in scores and method != baseline:
                gain, gain_low, gain_high = mean_and_interval(scores[method] - scores[baseline], weights)
            by_draw = scores[method].mean(axis=0) @ weights
            several = len(by_draw) > 1
            rows.append(
                Row(
                    task=task,
                    method=method,
                    metric=metric,
                    score=score,
                    low=low,
                    high=high,
                    gain=gain,
                    gain_low=gain_low,
                    gain_high=gain_high,
                    draws=len(by_draw),
                    lowest=float(by_draw.min()) if several else None,
                    highest=float(by_draw.max()) if several else None,
                    trained_parameters=seeds[0].trained_parameters,
                    heads=tuple(heads_of_draw(seeds, draw) for draw in draws_of(seeds[0])),
                    facts=seeds[0].facts,
                    share=100 * seeds[0].trained_parameters / model_size if model_size else None,
                    ce=mean_drift(seeds, "ce"),
                    kl=mean_drift(seeds, "kl"),
                )
            )
    return rows


def check_cells(task: str, cells: Mapping[str, Sequence[Cell]], *, baseline: str | None) -> None:
    """Raise a ValueError where the cells of a task do not fit together; see `rows_of_task`."""
    first = next(iter(cells.values()))
    expected = {fold: sizes for (_, fold), sizes in sizes_of(first[0]).items()}
    for method, seeds in cells.items():
        if len(seeds) != len(first):
            raise ValueError(f"{task}, {method}: got {len(seeds)} seeds; expected {len(first)}")
        draws = draws_of(seeds[0])
        if method == baseline and len(draws) > 1:
            raise ValueError(f"{task}, {method}: got {len(draws)} draws; expected one, as it is the baseline")
        parts = {(draw, fold): sizes for draw in draws for fold, sizes in expected.items()}
        for cell in seeds:
            if sizes_of(cell) != parts:
                raise ValueError(
                    f"{task}, {method}: got a score table of {sizes_of(cell)}; expected {parts}, as in the other cells"
                )


def sizes_of(cell: Cell) -> dict[Part, dict[str, int]]:
    """How many records each metric has, by draw and fold."""
    return {part: {metric: len(values) for metric, values in scores.items()} for part, scores in cell.scores.items()}


def draws_of(cell: Cell) -> list[int]:
    return sorted({draw for draw, _ in cell.scores})


def stack(seeds: Sequence[Cell], metric: str, folds: Sequence[int]) -> np.ndarray:
    """The scores of one method by one metric, seeds x draws x records: the records of all folds, one after another."""
    return np.array(
        [
            [np.concatenate([cell.scores[draw, fold][metric] for fold in folds]) for draw in draws_of(cell)]
            for cell in seeds
        ]
    )


def record_weights(folds: np.ndarray) -> np.ndarray:
    """The weight of each record, so that each fold counts the same. They sum to 1.

    `folds` holds the fold of each record.
    """
    names, counts = np.unique(folds, return_counts=True)
    return 1 / (len(names) * counts[np.searchsorted(names, folds)])


def mean_and_interval(scores: np.ndarray, weights: np.ndarray) -> tuple[float, float, float]:
    """Weighted mean of `scores`, seeds x draws x records, and both ends of its 95 % interval."""
    runs = scores.reshape(-1, scores.shape[-1])
    return float((runs.mean(axis=0) * weights).sum()), *interval(runs, weights)


def interval(scores: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """95 % interval of the weighted mean of `scores`, runs x records, by the percentile bootstrap.

    A run is one draw with one seed. Each resample takes records at random, the same ones for each run, and runs at
    random where there are several.
    """
    runs, records = scores.shape
    generator = np.random.default_rng(0)
    picked_records = generator.integers(records, size=(RESAMPLES, records))
    picked_runs = generator.integers(runs, size=(RESAMPLES, runs))
    means = np.concatenate(
        [
            np.average(
                np.take_along_axis(scores[some_runs].mean(axis=1), some_records, axis=1),
                weights=weights[some_records],
                axis=1,
            )
            for some_runs, some_records in (
                (picked_runs[first : first + CHUNK], picked_records[first : first + CHUNK])
                for first in range(0, RESAMPLES, CHUNK)
            )
        ]
    )
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def mean_drift(seeds: Sequence[Cell], name: str) -> float | None:
    """Mean over seeds, draws and folds; None where a part of it was not measured, as a mean of the rest misleads."""
    values = [cell.drift.get(part, {}).get(name) for cell in seeds for part in cell.scores]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def heads_of_draw(seeds: Sequence[Cell], draw: int) -> str:
    """The heads of one draw; a semicolon separates seeds and folds."""
    parts = [heads for cell in seeds for (other, _), heads in cell.heads.items() if other == draw]
    return "; ".join(" ".join(f"{layer}.{head}" for layer, head in heads) for heads in parts)


def primary_rows(rows: Sequence[Row]) -> list[Row]:
    """The rows of each task's first metric."""
    first: dict[str, str] = {}
    for row in rows:
        first.setdefault(row.task, row.metric)
    return [row for row in rows if row.metric == first[row.task]]


def by_task(rows: Sequence[Row]) -> dict[str, list[Row]]:
    return {task: [row for row in rows if row.task == task] for task in dict.fromkeys(row.task for row in rows)}
