"""Pages: methods, rankings and tasks are modules that are found by name, so that a new one is a new file."""

from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules
from types import ModuleType

from lofit.errors import LofitError


def page_names(package: str) -> list[str]:
    """The modules of a package, in alphabetical order."""
    return sorted(module.name for module in iter_modules(import_module(package).__path__))


def find_page(package: str, name: str, *, what: str) -> ModuleType:
    """The module `name` of a package.

    Args:
        what: what such a page is called, for the message.

    Raises:
        LofitError: there is no such module.
    """
    if not name.isidentifier() or find_spec(f"{package}.{name}") is None:
        raise LofitError(f"{what}: got {name!r}; expected {', '.join(page_names(package))}")
    return import_module(f"{package}.{name}")
