"""Records from plain dicts, as a caller has them in Python."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

from lofit.errors import LofitError
from lofit.tasks import jsonl
from lofit.tasks.prompts import Reader
from lofit.tasks.record import Metric, Objective, Options, Record
from lofit.tasks.source import Place

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def to_records(
    rows: Iterable[Mapping[str, Any] | Record], tokenizer: "PreTrainedTokenizerBase"
) -> tuple[list[Record], Objective, Metric]:
    """Records, and how such records are trained on and scored (see `lofit.tasks.jsonl` for the shapes).

    Args:
        rows: dicts of `prompt` and `completion`, of `messages`, of `prompt`, `chosen` and `rejected`, or of `prompt`,
            `choices` and `answer`, with or without an `id`; or `Record`s. All of one shape.
        tokenizer: its chat template writes messages as prompts.

    Raises:
        LofitError: there is no row, a row has no such shape, or another than the first.
    """
    if isinstance(rows, Mapping | Record):
        raise LofitError(f"records: got one {type(rows).__name__}; expected a list of them")
    records: list[Record] = []
    shapes: list[str] = []
    for number, row in enumerate(rows, 1):
        if isinstance(row, Record):
            records.append(row)
            shapes.append(shape_of_record(row))
        elif isinstance(row, Mapping):
            place = Place("records", number, "row")
            shapes.append(jsonl.shape_of(place, dict(row), {}))
            records.append(jsonl.record(place, dict(row), Options()))
        else:
            raise LofitError(f"record {number}: got a {type(row).__name__}; expected a dict or a Record")
        if shapes[-1] != shapes[0]:
            raise LofitError(f"record {number}: got a {shapes[-1]}; expected a {shapes[0]}, as the records before")
    if not records:
        raise LofitError("records: got none; expected at least one")
    records = Reader(tokenizer, {}).write(records)
    if shapes[0] == "questions":
        return records, Objective("dpo"), Metric("multiple_choice")
    objective, metric = jsonl.AIMS[cast(jsonl.Shape, shapes[0])]
    return records, objective, metric


def shape_of_record(record: Record) -> str:
    """Which shape of line a record comes from; "questions" are pairs with all the answers of a multiple choice."""
    if record.rejected is not None:
        return "questions" if record.incorrect else "preference"
    return "choice" if record.incorrect else "completion"
