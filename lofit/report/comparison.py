"""Rows compared with a reference row on the same questions, corrected for how many comparisons there are.

Each comparison is a paired bootstrap of the difference. A resample takes questions at random, the same ones for both
rows, and runs (a seed, with a draw) at random where there are several; each fold counts alike, as in the scores. Two
rows are said to differ by p, the share of resamples whose difference lies at least as far from the observed one as the
observed one does from zero:

    p = (1 + #{b : |d*_b - d| >= |d|}) / (1 + resamples)

It is two-sided and never zero. Holm's correction then keeps the chance of any false claim among all comparisons of a
report at the level that its reader takes (S. Holm, A simple sequentially rejective multiple test procedure, 1979).
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lofit.report.rows import Cell, Row, check_cells, record_weights, stack

RESAMPLES = 10_000

CHUNK = 500
"""How many resamples are held at a time: 817 questions then take 3 MB."""

TIE = 1e-12
"""Distances that differ by less are equal: sums in another order differ by rounding."""

Cells = Mapping[str, Sequence[Cell]]
"""By method, a cell for each seed."""


@dataclass(frozen=True)
class Comparison:
    """A row against the reference on one task, by the task's first metric."""

    task: str

    method: str

    metric: str

    reference: str

    difference: float
    """Score of the row minus that of the reference."""

    low: float
    """Lower end of the 95 % interval of `difference`."""

    high: float

    p: float
    """Two-sided, for this comparison alone."""

    corrected_p: float
    """After Holm's correction over all comparisons that were made together."""


def compare(
    tasks: Mapping[str, Cells],
    *,
    reference: str,
    methods: Collection[str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Comparison]:
    """Compare rows with the row `reference` on every task that has it, by the task's first metric.

    The correction is over everything that is returned, so all comparisons of a report belong into one call. The
    smallest p is 1 / (1 + resamples), before correction.

    Args:
        tasks: by task and method, one cell for each seed, all methods with the same seeds.
        methods: the rows to compare, named before their scores were seen; by default all others.
        seed: of the resamples. Rows of a task share them.

    Raises:
        ValueError: the cells of a task do not fit together; see `lofit.report.rows.rows_of_task`.
    """
    found: list[Comparison] = []
    for task, cells in tasks.items():
        if reference not in cells:
            continue
        check_cells(task, cells, baseline=None)
        first = cells[reference][0].scores
        metric = next(iter(next(iter(first.values()))))
        sizes = {fold: len(scores[metric]) for (_, fold), scores in first.items()}
        weights = record_weights(np.repeat(list(sizes), list(sizes.values())))
        # A draw has no partner among the reference's draws: it is compared with their mean.
        expected = stack(cells[reference], metric, list(sizes)).mean(axis=1, keepdims=True)
        named = [method for method in cells if method != reference and (methods is None or method in methods)]
        runs = {}
        for method in named:
            difference = stack(cells[method], metric, list(sizes)) - expected
            runs[method] = difference.reshape(-1, difference.shape[-1])
        for method, (mean, means) in resampled(runs, weights, resamples=resamples, seed=seed).items():
            low, high = np.percentile(means, [2.5, 97.5])
            p = two_sided(mean, means)
            found.append(Comparison(task, method, metric, reference, mean, float(low), float(high), p, p))
    corrected = holm([comparison.p for comparison in found])
    return [replace(comparison, corrected_p=p) for comparison, p in zip(found, corrected, strict=True)]


def resampled(
    runs: Mapping[str, np.ndarray], weights: np.ndarray, *, resamples: int, seed: int
) -> dict[str, tuple[float, np.ndarray]]:
    """The weighted mean of each array, runs x records, and its means over the resamples, which the arrays share."""
    if not runs:
        return {}
    stacked = np.concatenate(list(runs.values())).T  # records x all runs
    # resamples x all runs: what a run reaches on the records of a resample
    reached = np.concatenate(
        [weighted @ stacked for weighted in weights_of_resamples(weights, resamples=resamples, seed=seed)]
    )
    found = {}
    first = 0
    for name, values in runs.items():
        count = len(values)
        of_method = reached[:, first : first + count]
        first += count
        # Rows with as many runs take the same runs, whatever stands between them in the table.
        picked = np.random.default_rng((seed, 1)).integers(count, size=(resamples, count))
        mean = float((values.mean(axis=0) * weights).sum())
        found[name] = mean, np.take_along_axis(of_method, picked, axis=1).mean(axis=1)
    return found


def weights_of_resamples(weights: np.ndarray, *, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """The weights of the records in each resample, chunk by chunk: resamples x records, each row with the sum 1."""
    generator = np.random.default_rng(seed)
    records = len(weights)
    for first in range(0, resamples, CHUNK):
        count = min(CHUNK, resamples - first)
        picked = generator.integers(records, size=(count, records)) + np.arange(count)[:, None] * records
        taken = np.bincount(picked.ravel(), minlength=count * records).reshape(count, records) * weights
        yield taken / taken.sum(axis=1, keepdims=True)


def two_sided(mean: float, means: np.ndarray) -> float:
    """p of a mean that lies this far from zero, from its means over resamples."""
    as_far = np.abs(means - mean) >= abs(mean) - TIE
    return float((1 + as_far.sum()) / (1 + len(means)))


def holm(values: Sequence[float]) -> list[float]:
    """Holm's correction: the k-th smallest of n p-values times n - k + 1, at most 1, never below a smaller one's."""
    order = sorted(range(len(values)), key=values.__getitem__)
    corrected = [0.0] * len(values)
    highest = 0.0
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - place) * values[index]))
        corrected[index] = highest
    return corrected


def with_comparisons(rows: Sequence[Row], comparisons: Sequence[Comparison]) -> list[Row]:
    """The rows, with what `compare` found of each by its task, method and metric."""
    known = {(found.task, found.method, found.metric): found for found in comparisons}
    return [
        row
        if (found := known.get((row.task, row.method, row.metric))) is None
        else replace(
            row,
            reference=found.reference,
            difference=found.difference,
            difference_low=found.low,
            difference_high=found.high,
            p=found.p,
            corrected_p=found.corrected_p,
        )
        for row in rows
    ]
