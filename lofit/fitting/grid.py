"""The grid of a search: every combination of a few settings' values."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

from lofit.errors import LofitError
from lofit.settings import Settings

Tune = Mapping[str, Iterable[Any]]
"""The searched settings, each with its values."""

Candidate = tuple[dict[str, Any], Settings]
"""A point of the grid, and the settings that it makes."""


def grid(tune: Tune | None) -> list[dict[str, Any]]:
    """Every combination of the values of `tune`, the last key changing fastest; one empty one where there are none.

    Raises:
        LofitError: a key has no list of different values.
    """
    for key, values in (tune or {}).items():
        if isinstance(values, str | Mapping) or not isinstance(values, Sequence) or not values:
            raise LofitError(f"tune.{key}: got {values!r}; expected a list of values")
        if twice := [value for place, value in enumerate(values) if value in list(values)[:place]]:
            raise LofitError(f"tune.{key}: got {twice[0]!r} twice; expected each once")
    keys = list(tune or {})
    return [dict(zip(keys, point, strict=True)) for point in product(*(tune or {}).values())]


def candidates(kind: type[Settings], settings: Mapping[str, Any], tune: Tune | None) -> list[Candidate]:
    """Each point of the grid with the settings that it makes.

    Raises:
        LofitError: one line for each fault in any of them, each once.
    """
    made, faults = [], []
    for point in grid(tune):
        try:
            made.append((point, kind.of({**settings, **point})))
        except LofitError as error:
            faults += str(error).splitlines()
    if faults:
        raise LofitError("\n".join(dict.fromkeys(faults)))
    return made
