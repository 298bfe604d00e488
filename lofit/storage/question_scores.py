"""Scores of single questions on tasks that differ in their questions and metrics, in a long table."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np

from lofit.storage.files import write_whole
from lofit.storage.tables import Part

COLUMNS = ("draw", "fold", "task", "metric", "question", "score")


@dataclass(frozen=True)
class QuestionScores:
    """What a model reached on the questions of one task."""

    questions: tuple[str, ...]
    """A name for each, the same whatever was scored: its number in the task, counted from 0, below that of a group."""

    scores: Mapping[str, np.ndarray]
    """By metric, a number for each question."""


def write_question_scores(file: Path, parts: Mapping[Part, Mapping[str, QuestionScores]]) -> None:
    """Save what each part of a row reached, by task, as CSV: a line for each part, task, metric and question."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for part, tasks in parts.items():
        for task, reached in tasks.items():
            for metric, values in reached.scores.items():
                for question, value in zip(reached.questions, values, strict=True):
                    writer.writerow([*part, task, metric, question, f"{value:.6g}"])
    write_whole(file, text.getvalue())


def read_question_scores(file: Path) -> dict[Part, dict[str, QuestionScores]]:
    """What `write_question_scores` wrote."""
    found: dict[Part, dict[str, dict[str, dict[str, float]]]] = {}
    with file.open(newline="") as opened:
        for row in csv.DictReader(opened):
            tasks = found.setdefault((int(row["draw"]), int(row["fold"])), {})
            metric = tasks.setdefault(row["task"], {}).setdefault(row["metric"], {})
            metric[row["question"]] = float(row["score"])
    return {
        part: {
            task: QuestionScores(
                tuple(next(iter(metrics.values()))),
                {metric: np.array(list(values.values())) for metric, values in metrics.items()},
            )
            for task, metrics in tasks.items()
        }
        for part, tasks in found.items()
    }
