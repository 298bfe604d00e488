"""True and false completions of a record, for methods that compare what a model makes of them."""

from lofit.errors import LofitError
from lofit.tasks.record import Record

Contrast = tuple[tuple[str, ...], tuple[str, ...]]


def contrasts(record: Record) -> Contrast:
    """The true completions of a record, the one it is tuned on or its spelling in scoring first, and the false ones.

    All answers of a multiple choice; the two of a preference pair; else the completion and the record's `contrast`.

    Raises:
        LofitError: the record has no false completion.
    """
    if record.correct and record.incorrect:
        true, false = record.correct, record.incorrect
    elif record.rejected is not None:
        true, false = (record.completion,), (record.rejected,)
    else:
        true, false = (record.completion,), record.contrast
    if not false:
        raise LofitError(
            f"record {record.id}: got a completion and no wrong answer; expected data with chosen and rejected, or "
            "with choices, for a method that compares true and false answers"
        )
    return tuple(dict.fromkeys(true)), tuple(dict.fromkeys(false))
