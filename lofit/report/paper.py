"""Published scores, and a table that puts ours next to them."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lofit.report.markdown import aligned
from lofit.report.rows import Row

MEAN_OF = (("truthfulqa", "mc1"), ("truthfulqa", "mc2"), ("mquake", "exact_match"), ("clutrr", "exact_match"))
"""The kinds of task and their metrics that make up the paper's mean over tasks, `all`."""

PROTOCOL = "_lofit"
"""How the names of our metrics end under the paper's protocol."""


@dataclass(frozen=True)
class PaperFigure:
    """A published score of one model, by one method, on one kind of task."""

    model: str
    """Hugging Face id."""

    kind: str
    """The kind of task, or `all` for the mean over tasks."""

    method: str
    """The name that our presets give the method."""

    metric: str
    """Without the protocol, which is always `lofit`, the published one."""

    score: float

    source: str
    """Where the score was published, and how sure we are of it."""


def read_figures(file: Path, model: str) -> list[PaperFigure]:
    """The published scores of `model` in a CSV file, in the file's order; empty where it has none."""
    with file.open(newline="", encoding="utf-8") as opened:
        rows = [row for row in csv.DictReader(opened) if row["model"] == model]
    return [
        PaperFigure(row["model"], row["kind"], row["method"], row["metric"], float(row["score"]), row["source"])
        for row in rows
    ]


def compare_with_paper(figures: Sequence[PaperFigure], rows: Sequence[Row], kinds: Mapping[str, str]) -> str:
    """A Markdown table of published scores, each next to our score of the same method, metric and protocol.

    `kinds` maps each task of `rows` to its kind. A published score has one line for each of our tasks of its kind.
    Where we have no such score, the line has a dash. The mean over tasks needs exactly one task of each kind.

    Raises:
        KeyError: `kinds` lacks a task of `rows`.
    """
    scores = {
        (row.task, row.method, row.metric.removesuffix(PROTOCOL)): row.score
        for row in rows
        if row.metric.endswith(PROTOCOL)
    }
    tasks: dict[str, list[str]] = {}
    for task in dict.fromkeys(row.task for row in rows):
        tasks.setdefault(kinds[task], []).append(task)
    lines = []
    for figure in figures:
        ours: dict[str, float | None]
        if figure.kind == "all":
            ours = {"all": mean_over_tasks(scores, tasks, figure.method)}
        else:
            names = tasks.get(figure.kind, [figure.kind])
            ours = {task: scores.get((task, figure.method, figure.metric)) for task in names}
        for task, score in ours.items():
            shown = "-" if score is None else f"{score:.3f}"
            lines.append((task, figure.method, figure.metric, shown, f"{figure.score:.3f}", figure.source))
    return aligned(("task", "method", "metric", "ours", "the paper's", "source"), lines)


def mean_over_tasks(
    scores: Mapping[tuple[str, str, str], float], tasks: Mapping[str, Sequence[str]], method: str
) -> float | None:
    """The mean of our scores that the paper's mean is made of; None unless each kind has one task with a score.

    `scores` is by task, method and metric; `tasks` by kind.
    """
    parts = []
    for kind, metric in MEAN_OF:
        names = tasks.get(kind, [])
        score = scores.get((names[0], method, metric)) if len(names) == 1 else None
        if score is None:
            return None
        parts.append(score)
    return sum(parts) / len(parts)
