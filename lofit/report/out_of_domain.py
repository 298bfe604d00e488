"""What tuning for a task costs, or gives, on others: LoFiT's Table 5, a line for each row.

A question counts once, whatever its task's subjects. A run is a seed with a part of the row (a fold of its data, a draw
of its heads), each of which has an adapter of its own; all are asked the same questions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lofit.report.markdown import from_columns
from lofit.report.rows import Row, by_task, mean_and_interval, primary_rows
from lofit.storage.question_scores import QuestionScores
from lofit.storage.tables import Part

LIMITED = (
    "Where not all were asked, it was the first ones; of mmlu_val_local, those at equal steps over all subjects; of a "
    "group, so for each of its tasks."
)

Reached = Mapping[Part, Mapping[str, QuestionScores]]
"""What one cell reached: by part, then by the task that it was asked."""


@dataclass(frozen=True)
class Score:
    """A mean over questions and runs, with its 95 % interval."""

    mean: float

    low: float

    high: float

    def text(self, *, signed: bool = False) -> str:
        sign = "+" if signed else ""
        return f"{self.mean:{sign}.3f} [{self.low:{sign}.3f}, {self.high:{sign}.3f}]"


def out_of_domain_tables(
    tasks: Mapping[str, Mapping[str, Sequence[Reached]]],
    rows: Sequence[Row],
    totals: Mapping[str, int],
    *,
    baseline: str | None,
) -> str:
    """For each task that the rows were tuned on, a Markdown table of scores, and one of differences to the baseline.

    Args:
        tasks: by that task and the row, one cell for each seed.
        rows: of the results on the tasks themselves (`lofit.report.rows`).
        totals: how many questions each other task has, asked or not.
        baseline: the row that comes first, and that the others are compared with where it was asked, too.

    Raises:
        ValueError: rows were asked different questions.
    """
    if not tasks:
        return ""
    known = by_task(primary_rows(rows))
    sections = [questions_table(tasks, totals)]
    for task, cells in tasks.items():
        members = {row.method: row for row in known[task]}
        order = sorted(cells, key=lambda method: method != baseline)
        sections.append(f"## Tuned on {task}\n\n{score_table(task, order, cells, members)}")
        if baseline is not None and baseline in cells and len(cells) > 1:
            differences = difference_table(task, order[1:], cells, members, cells[baseline])
            sections.append(f"Differences to `{baseline}` on the same questions:\n\n{differences}")
    return "\n\n".join(sections)


def questions_table(tasks: Mapping[str, Mapping[str, Sequence[Reached]]], totals: Mapping[str, int]) -> str:
    """How many questions of each task were asked, of how many."""
    ((first, *_), *_) = next(iter(tasks.values())).values()
    reached = next(iter(first.values()))
    some = any(len(scores.questions) < totals[task] for task, scores in reached.items())
    table = from_columns(
        {
            "task": list(reached),
            "questions": [f"{len(scores.questions):,}" for scores in reached.values()],
            "of": [f"{totals[task]:,}" for task in reached],
        }
    )
    return f"{table}\n\n{LIMITED}" if some else table


def score_table(
    task: str, order: Sequence[str], cells: Mapping[str, Sequence[Reached]], members: Mapping[str, Row]
) -> str:
    columns = {"method": list(order)}
    own = [members[method] for method in order]
    columns[f"{task}: {own[0].metric}"] = [Score(row.score, row.low, row.high).text() for row in own]
    for name, metric in asked(cells[order[0]]):
        columns[f"{name}: {metric}"] = [score(stacked(cells[method], name, metric)).text() for method in order]
    for name in ("ce", "kl"):
        values = [getattr(row, name) for row in own]
        if any(value is not None for value in values):
            columns[f"drift {name.upper()}"] = [
                "" if value is None else f"{value:{'+' * (name == 'ce')}.3f}" for value in values
            ]
    return from_columns(columns)


def difference_table(
    task: str,
    order: Sequence[str],
    cells: Mapping[str, Sequence[Reached]],
    members: Mapping[str, Row],
    baseline: Sequence[Reached],
) -> str:
    columns = {"method": list(order)}
    own = [members[method] for method in order]
    columns[f"{task}: {own[0].metric}"] = [gain(row) for row in own]
    for name, metric in asked(baseline):
        # The untouched model is the same with every seed.
        expected = stacked(baseline, name, metric).mean(axis=0)
        columns[f"{name}: {metric}"] = [
            score(stacked(cells[method], name, metric) - expected).text(signed=True) for method in order
        ]
    return from_columns(columns)


def gain(row: Row) -> str:
    if row.gain is None or row.gain_low is None or row.gain_high is None:
        return ""
    return Score(row.gain, row.gain_low, row.gain_high).text(signed=True)


def asked(seeds: Sequence[Reached]) -> list[tuple[str, str]]:
    """The tasks that a row was asked, each with its metrics."""
    first = next(iter(seeds[0].values()))
    return [(name, metric) for name, reached in first.items() for metric in reached.scores]


def stacked(seeds: Sequence[Reached], name: str, metric: str) -> np.ndarray:
    """What the runs of a row reached on one task, runs x questions."""
    reached = [tasks[name] for parts in seeds for tasks in parts.values()]
    if len({one.questions for one in reached}) > 1:
        raise ValueError(f"{name}: got runs with different questions; expected the same ones")
    return np.array([one.scores[metric] for one in reached])


def score(runs: np.ndarray) -> Score:
    """The mean of runs x questions, where each question counts alike."""
    questions = runs.shape[1]
    return Score(*mean_and_interval(runs, np.full(questions, 1 / questions)))
