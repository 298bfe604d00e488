"""Packages that `pip install lofit` alone does not bring."""

from collections.abc import Iterator
from contextlib import contextmanager

from lofit.errors import LofitError


@contextmanager
def extra(name: str, what: str) -> Iterator[None]:
    """Put around imports that come with `lofit[name]`.

    Args:
        what: what needs them, for the message, such as "plots need".

    Raises:
        LofitError: one of them is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "lofit").partition(".")[0] in ("lofit", "stages"):
            raise
        raise LofitError(f"{what} more packages; run pip install 'lofit[{name}]'") from None
