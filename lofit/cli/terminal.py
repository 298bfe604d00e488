"""How commands print: plain tables, which read the same in a file."""

from typing import Literal

from rich.console import Console
from rich.table import Table


def terminal() -> Console:
    """Prints text as it is: no markup in it, and no colours of its own."""
    return Console(markup=False, emoji=False, highlight=False)


def columns(*headers: str, right: tuple[int, ...] = (), ratio: int | None = None) -> Table:
    """A table without lines, which reads the same in a file; `right` are the columns of numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), expand=ratio is not None)
    for place, header in enumerate(headers):
        justify: Literal["left", "right"] = "right" if place in right else "left"
        table.add_column(header, justify=justify, overflow="fold", ratio=ratio)
    return table
