"""The table of results: scores with their intervals, as Markdown and as CSV.

A method on a task has one cell for each seed. A cell has one or more draws of heads, and a draw has one or more folds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from lofit.storage.tables import Part

RESAMPLES = 2000

LONGEST_HEADS = 60
"""Width of the column of heads, in characters. The CSV file holds all heads."""


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


@dataclass(frozen=True)
class Cell:
    """The results of one method on one task with one seed."""

    scores: Mapping[Part, Mapping[str, np.ndarray]]
    """By draw and fold, then by metric: one number for each record of the fold."""

    heads: Mapping[Part, Sequence[tuple[int, int]]]
    """By draw and fold: (layer, head). A part without heads may be left out."""

    trained_parameters: int


def rows_of_task(task: str, cells: Mapping[str, Sequence[Cell]], *, baseline: str | None) -> list[Row]:
    """The rows of a task, metric by metric. Within a metric, the methods keep the order of `cells`.

    `cells` holds, by method, one cell for each seed; all methods list the seeds in the same order. Gains are measured
    against the method `baseline`. It has one draw, and each draw of another method is compared with it, seed by seed.

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
    means = [
        np.average(scores[some_runs].mean(axis=0)[some_records], weights=weights[some_records])
        for some_runs, some_records in zip(picked_runs, picked_records, strict=True)
    ]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


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


def primary_tables(rows: Sequence[Row], *, baseline: str | None) -> str:
    """A Markdown table of each task's first metric, below the header `## task: metric`.

    `baseline` is the method that gains are measured against. Without one there is no column of gains.
    """
    sections = []
    for task, members in by_task(primary_rows(rows)).items():
        columns = {"method": [row.method for row in members], **number_columns(members, baseline)}
        columns["heads"] = [short_heads(row.heads) for row in members]
        sections.append(f"## {task}: {members[0].metric}\n\n{from_columns(columns)}")
    return "\n\n".join(sections)


def other_tables(rows: Sequence[Row], *, baseline: str | None) -> str:
    """A Markdown table of each task's other metrics, below the header `### task`; empty where there are none."""
    primary = primary_rows(rows)
    sections = []
    for task, members in by_task([row for row in rows if row not in primary]).items():
        columns = {"metric": [row.metric for row in members], "method": [row.method for row in members]}
        sections.append(f"### {task}\n\n{from_columns({**columns, **number_columns(members, baseline)})}")
    return "\n\n".join(sections)


def by_task(rows: Sequence[Row]) -> dict[str, list[Row]]:
    return {task: [row for row in rows if row.task == task] for task in dict.fromkeys(row.task for row in rows)}


def number_columns(rows: Sequence[Row], baseline: str | None) -> dict[str, list[str]]:
    """The columns from the score to the number of parameters."""
    columns = {
        "score": [f"{row.score:.3f}" for row in rows],
        "95 % interval": [f"[{row.low:.3f}, {row.high:.3f}]" for row in rows],
    }
    if baseline is not None:
        columns[f"gain over {baseline}"] = [
            "" if row.gain is None else f"{row.gain:+.3f} [{row.gain_low:+.3f}, {row.gain_high:+.3f}]" for row in rows
        ]
    if any(row.draws > 1 for row in rows):
        columns["range over draws"] = [
            f"{row.lowest:.2f} to {row.highest:.2f} ({row.draws} draws)" if row.draws > 1 else "" for row in rows
        ]
    columns["parameters"] = [str(row.trained_parameters) for row in rows]
    return columns


def short_heads(draws: Sequence[str]) -> str:
    """The heads of the first draw, cut after LONGEST_HEADS characters, and how many draws follow it."""
    first, others = draws[0], len(draws) - 1
    shown = first if len(first) <= LONGEST_HEADS else f"{first[:LONGEST_HEADS].rsplit(' ', 1)[0]} ..."
    return f"{shown} and {others} other draw{'s' * (others > 1)}" if others else shown


def from_columns(columns: Mapping[str, Sequence[str]]) -> str:
    return aligned(list(columns), list(zip(*columns.values(), strict=True)))


def aligned(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up, so that it reads well in a terminal too."""
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    table = [header, tuple("-" * width for width in widths), *lines]
    return "\n".join(
        "| " + " | ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)) + " |" for line in table
    )


def to_csv(rows: Sequence[Row]) -> list[list[str]]:
    """A header and all rows. The first column, `cell`, names task, metric and method for `dvc plots`.

    A number that is None is left empty. A slash separates the heads of draws.
    """
    names = [field.name for field in fields(Row)]
    table = [["cell", *names]]
    for row in rows:
        table.append([f"{row.task} {row.metric} {row.method}", *(as_text(getattr(row, name)) for name in names)])
    return table


def as_text(value: str | float | tuple[str, ...] | None) -> str:
    match value:
        case None:
            return ""
        case float():
            return f"{value:.4f}"
        case tuple():
            return " / ".join(value)
        case _:
            return str(value)
