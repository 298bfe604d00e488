"""The studies of the paper, one page each: what the finished cells of a run say, as one table and one figure.

A page holds `TITLE`, `Settings` and `study(evidence, settings) -> Study`, and is found by its name.
"""

from types import ModuleType

from lofit.pages import find_page, page_names


def names() -> list[str]:
    """The studies that there are."""
    return page_names(__name__)


def find(name: str) -> ModuleType:
    """The page of a study.

    Raises:
        LofitError: there is none of this name.
    """
    return find_page(__name__, name, what="study")
