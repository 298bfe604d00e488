"""Markdown tables whose columns line up."""

from collections.abc import Mapping, Sequence


def from_columns(columns: Mapping[str, Sequence[str]]) -> str:
    return aligned(list(columns), list(zip(*columns.values(), strict=True)))


def aligned(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up, so that it reads well in a terminal too."""
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    table = [header, tuple("-" * width for width in widths), *lines]
    return "\n".join(
        "| " + " | ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)) + " |" for line in table
    )
