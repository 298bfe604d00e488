"""Markdown tables whose columns line up, and texts of any kind in their cells."""

import re
from collections.abc import Mapping, Sequence

LONGEST = 60
"""Characters of a text that are shown in a cell, unless more are asked for."""

SPECIAL = re.compile(r"([\\`*_\[\]<>|~&$])")
"""What Markdown would read as more than a letter, within a cell of a table."""


def from_columns(columns: Mapping[str, Sequence[str]]) -> str:
    return aligned(list(columns), list(zip(*columns.values(), strict=True)))


def aligned(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up, so that it reads well in a terminal too."""
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    table = [header, tuple("-" * width for width in widths), *lines]
    return "\n".join(
        "| " + " | ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)) + " |" for line in table
    )


def one_line(text: str) -> str:
    return " ".join(text.split())


def in_cell(text: str, longest: int = LONGEST) -> str:
    """A text as it is read in a cell of a table: cut where it is long, and with what has no width made visible."""
    if not text:
        return "*nothing*"
    visible = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
    cut = visible if len(visible) <= longest else visible[: longest - 1].rstrip() + "…"
    return SPECIAL.sub(r"\\\1", cut)
