"""The fields of a row: found by their paths, and read as what they are to be."""

import string
from collections.abc import Sequence
from decimal import Decimal
from numbers import Integral
from typing import Any

from lofit.errors import LofitError
from lofit.tasks.source import Place, printed


def value_at(row: dict, path: str) -> Any:
    """The value at a dotted path, or None where there is none."""
    value: Any = row
    for key in path.split("."):
        if isinstance(value, dict):
            value = value.get(key)
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            return None
    # What data frames write for an empty cell.
    return None if isinstance(value, float) and value != value else value


def text_of(place: Place, path: str, value: Any) -> str:
    """A text, or a number as it is written.

    Raises:
        LofitError: it is blank, or something else.
    """
    if (text := printed(value)) is None or not text.strip():
        raise LofitError(f"{place}: field {path!r} is {shown(value)}; expected a text that is not blank")
    return text


def texts_of(place: Place, path: str, value: Any) -> list[str]:
    """A list of texts or numbers.

    Raises:
        LofitError: it is no list, or holds something else.
    """
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise LofitError(f"{place}: field {path!r} is {value!r}; expected a list that is not blank")
    return [text_of(place, f"{path}.{i}", item) for i, item in enumerate(value)]


def whole_number(value: Any) -> int | None:
    """A number without a fraction, whatever its type; None for anything else."""
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    number = float(value) if isinstance(value, float | Decimal) else 0.5
    return int(number) if number.is_integer() and abs(number) < 2**53 else None


def fill(template: str, place: Place, row: dict) -> str:
    """The prompt: `template` with each {field}, or dotted {path.to.field}, of a line put in once.

    Raises:
        LofitError: the template is malformed, the line lacks one of its fields, or the prompt is blank.
    """
    pieces = []
    try:
        for literal, path, spec, conversion in string.Formatter().parse(template):
            if spec or conversion:
                raise ValueError("a field has a name and no format")
            pieces.append(literal)
            if path is not None:
                pieces.append(printed_field(place, row, path))
    except ValueError as error:
        if isinstance(error, LofitError):
            raise
        raise LofitError(f"template: got {template!r} ({error}); expected text and {{field}}") from None
    prompt = "".join(pieces)
    if not prompt.strip():
        raise LofitError(f"{place}: the prompt is blank; expected at least one word")
    return prompt


def printed_field(place: Place, row: dict, path: str) -> str:
    value = value_at(row, path)
    if value is None:
        raise LofitError(f"{place}: no field {path!r}, which the template names; got {', '.join(row)}")
    if (text := printed(value)) is None:
        raise LofitError(f"{place}: field {path!r} is a {type(value).__name__}; expected in a template: text, number")
    return text


def shown(value: Any) -> str:
    """A value in a message; a number by its digits, whatever its type."""
    return str(value) if isinstance(value, Decimal) else repr(value)
