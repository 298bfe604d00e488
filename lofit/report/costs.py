"""What each row cost: seconds and peak memory. They differ from run to run, so no file that DVC hashes holds them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from lofit.report.markdown import from_columns

MEBIBYTE = 2**20


@dataclass(frozen=True)
class Cost:
    """One row on one task: means over its cells; None where a figure was not measured."""

    task: str

    method: str

    training_seconds: float | None = None
    """Of fitting the adapter, all searched settings included."""

    selection_seconds: float | None = None
    """Of choosing heads."""

    host_bytes: float | None = None
    """Peak memory of the process."""

    device_bytes: float | None = None
    """Peak memory on the accelerator."""


FIGURES = tuple(field.name for field in fields(Cost) if field.name not in ("task", "method"))


def cost_of(task: str, method: str, cells: Sequence[Mapping[str, float | None]]) -> Cost:
    """The mean of what was measured of each cell, by the names of `Cost`; a figure may be missing from some of them."""
    means = {}
    for name in FIGURES:
        known = [value for cell in cells if (value := cell.get(name)) is not None]
        means[name] = sum(known) / len(known) if known else None
    return Cost(task, method, **means)


def cost_table(costs: Sequence[Cost]) -> str:
    """A Markdown table with a line for each task and row; blank where nothing was measured."""
    columns = {"task": [cost.task for cost in costs], "method": [cost.method for cost in costs]}
    for name, title, unit in (
        ("training_seconds", "training, s", 1),
        ("selection_seconds", "selection of heads, s", 1),
        ("host_bytes", "peak host memory, MiB", MEBIBYTE),
        ("device_bytes", "peak device memory, MiB", MEBIBYTE),
    ):
        values = [getattr(cost, name) for cost in costs]
        digits = 1 if unit == 1 else 0
        columns[title] = ["" if value is None else f"{value / unit:,.{digits}f}" for value in values]
    return from_columns(columns)


def cost_csv(costs: Sequence[Cost]) -> list[list[str]]:
    """A header and all rows, in seconds and bytes; empty where nothing was measured."""
    table = [["task", "method", *FIGURES]]
    for cost in costs:
        values = [getattr(cost, name) for name in FIGURES]
        table.append(
            [
                cost.task,
                cost.method,
                *(
                    "" if value is None else f"{value:.{3 * name.endswith('seconds')}f}"
                    for name, value in zip(FIGURES, values, strict=True)
                ),
            ]
        )
    return table
