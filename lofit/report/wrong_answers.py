"""The commonest wrong answers of each row, so that near misses can be told from mistakes.

Exact match calls "Answer: Rome." as wrong as "Paris" where "Rome" is right.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from lofit.report.markdown import from_columns, in_cell, one_line

COMMONEST = 10
"""How many are shown of each row."""

Predictions = Sequence[Mapping[str, Any]]
"""What the stage evaluate writes of each record; of one scored by exact match `exact_match`, `prediction`, `target`."""


def wrong_answer_lists(tasks: Mapping[str, Mapping[str, Predictions]]) -> str:
    """For each task scored by exact match a header `## task`, and for each of its rows a Markdown table.

    Empty where no task is scored so. Answers are counted over all predictions of a row, those of all seeds, folds and
    draws; blanks and line breaks in them count as one blank.

    Args:
        tasks: by task and method, the predictions in their order.
    """
    sections = []
    for task, methods in tasks.items():
        if any("prediction" in row for predictions in methods.values() for row in predictions):
            lists = [f"### {method}\n\n{list_of(predictions)}" for method, predictions in methods.items()]
            sections.append("\n\n".join([f"## {task}", *lists]))
    return "\n\n".join(sections)


def list_of(predictions: Predictions) -> str:
    """How many of these answers are wrong, and a table of the commonest wrong ones."""
    wrong = [(one_line(row["prediction"]), one_line(row["target"])) for row in predictions if not row["exact_match"]]
    if not wrong:
        return f"None of {len(predictions)} answers is wrong."
    near = sum(holds(answer, right) for answer, right in wrong)
    # Of several questions with the same wrong answer the first one is the example.
    rights = dict(reversed(wrong))
    counts = Counter(answer for answer, _ in wrong)
    shown = sorted(counts, key=lambda answer: (-counts[answer], answer))[:COMMONEST]
    columns = {
        "wrong answer": [in_cell(answer) for answer in shown],
        "times": [str(counts[answer]) for answer in shown],
        "right answer": [in_cell(rights[answer]) for answer in shown],
    }
    share = f"{len(wrong)} of {len(predictions)} answers are wrong"
    return f"{share}; {near} of these hold the right one among other words.\n\n{from_columns(columns)}"


def holds(answer: str, right: str) -> bool:
    """Whether the words of the right answer stand in a wrong one, whatever their case."""
    found = re.search(rf"(?<!\w){re.escape(right.casefold())}(?!\w)", answer.casefold())
    return bool(right) and found is not None
