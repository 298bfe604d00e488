"""The same questions answered before and after: by the base model, and by a row.

The first questions of the split are shown, whatever came out, so that nobody has picked them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lofit.report.markdown import from_columns, in_cell, one_line
from lofit.tasks.record import Record

SHOWN = 3
"""How many questions of each task are shown."""

LONGEST_PROMPT = 400
"""Characters of a prompt that are shown, of its end."""

LONGEST_ANSWER = 100


def answer_tables(tasks: Mapping[str, tuple[Sequence[Record], Mapping[str, Sequence[Mapping[str, Any]]]]]) -> str:
    """For each task a header `## task` and a Markdown table: the first questions, each row's answers, a right one.

    Args:
        tasks: by task, the records of the split in their order, and by row what the stage evaluate writes of each of
            them. Where a row has several predictions of a question, of draws or of seeds, the first one counts.
    """
    return "\n\n".join(f"## {task}\n\n{table_of(records[:SHOWN], rows)}" for task, (records, rows) in tasks.items())


def table_of(records: Sequence[Record], rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    prompts = [record.prompt if record.scoring_prompt is None else record.scoring_prompt for record in records]
    columns = {"prompt": [in_cell(end_of(one_line(prompt)), LONGEST_PROMPT) for prompt in prompts]}
    for name, predictions in rows.items():
        first = {row["id"]: row for row in reversed(predictions)}
        columns[name] = [shown(answer_of(record, first[record.id])) for record in records]
    columns["a right answer"] = [
        shown(record.correct[0] if record.correct else record.completion) for record in records
    ]
    return from_columns(columns)


def answer_of(record: Record, prediction: Mapping[str, Any]) -> str:
    """What was generated, up to where it is scored; of a multiple choice, the answer with the highest probability."""
    if "prediction" in prediction:
        return prediction["prediction"]
    scores = [*prediction["correct"], *prediction["incorrect"]]
    choices = [*record.correct, *record.incorrect] or [record.completion, record.rejected or ""]
    return choices[scores.index(max(scores))]


def shown(answer: str) -> str:
    return in_cell(one_line(answer), LONGEST_ANSWER)


def end_of(prompt: str) -> str:
    """A prompt's end, which asks; examples or a story may stand before it."""
    return prompt if len(prompt) <= LONGEST_PROMPT else "…" + prompt[len(prompt) - LONGEST_PROMPT + 1 :].lstrip()
