"""The kinds of adapter there are, each a page of this package, and reading a folder of any kind."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lofit.adapters.folder import here, kind_of, read_config
from lofit.errors import LofitError
from lofit.pages import find_page, page_names

PACKAGE = "lofit.adapters"

if TYPE_CHECKING:
    from lofit.adapters.base import Adapter


def load_adapter(place: str | Path, **download_options: Any) -> "Adapter":
    """Read an adapter of any kind from a folder, or by its id from the Hugging Face hub where there is no such folder.

    Raises:
        LofitError: a file is missing, cut short, foreign, of a newer format, or does not fit the other.
    """
    folder = here(place, **download_options)
    kind = kind_of(read_config(folder))
    pages = {name: find_page(PACKAGE, name, what="kind") for name in page_names(PACKAGE)}
    kinds = [name for name, page in pages.items() if hasattr(page, "ADAPTER")]
    if kind not in kinds:
        raise LofitError(f"{folder}: kind: got {kind!r}; expected {', '.join(kinds)}, or a newer lofit")
    return pages[kind].ADAPTER.from_pretrained(folder)
