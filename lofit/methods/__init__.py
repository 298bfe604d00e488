"""Methods: how a model is adapted, a page for each.

A method is a module of this package, found by its name. It holds

- `Settings`, its settings, a subclass of `lofit.settings.Settings`;
- `fit(subject, settings, heads)`, which returns a `lofit.adapters.base.Adapter`;
- `RANKING`, the ranking whose first K heads it edits where the user names no other; None where it edits no heads;
- `NEEDS`, where it waits for something: "activations", what heads and layers put out on true and false answers, which
  `subject.collected()` then gives.
"""

from types import ModuleType

from lofit.pages import find_page, page_names

PACKAGE = "lofit.methods"


def find(name: str) -> ModuleType:
    """The method called `name`.

    Raises:
        LofitError: there is none.
    """
    return find_page(PACKAGE, name, what="method")


def names() -> list[str]:
    """All methods that there are."""
    return page_names(PACKAGE)
