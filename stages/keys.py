"""Faults of the library, which speak of arguments, in the words of params.yaml."""

from collections.abc import Iterator
from contextlib import contextmanager

from lofit.errors import LofitError
from lofit.settings import Settings
from stages import paths


@contextmanager
def keys_of(block: str, settings: type[Settings]) -> Iterator[None]:
    """Have a fault that begins with the name of a setting begin with its key in params.yaml."""
    try:
        yield
    except LofitError as error:
        name = str(error).partition(":")[0].partition(".")[0]
        if name not in settings.model_fields:
            raise
        raise LofitError(f"{paths.PARAMS}: {block}.{error}") from None
