"""Pictures of studies. Lines differ in marker and stroke as well as in colour, so that they read in grey."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from textwrap import fill

import numpy as np

from lofit.extras import extra
from lofit.report.rows import Row

with extra("pipeline", "pictures need"):
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

STYLES = (
    ("o", "-", "#1a73e8"),
    ("s", "--", "#e8710a"),
    ("^", ":", "#188038"),
    ("D", "-.", "#a142f4"),
    ("v", (0, (5, 1)), "#b3261e"),
    ("P", (0, (1, 1)), "#12858d"),
)
"""Marker, stroke and colour of each line."""

GREY = "#5f6368"

NAME = 0.085
"""Width of a letter beside a panel, in inches."""


@dataclass(frozen=True)
class Line:
    """Scores along an axis."""

    name: str

    places: Sequence[float]
    """Where on the axis, rising."""

    rows: Sequence[Row]
    """What was scored at each place."""


@dataclass(frozen=True)
class Panel:
    """One task's lines."""

    title: str

    lines: Sequence[Line]

    base: float | None = None
    """The score of the untouched model, a line across; None where there is none."""


def line_panels(panels: Sequence[Panel], *, label: str, ticks: Mapping[int, str], caption: str) -> Figure:
    """A panel for each task with its lines and their intervals, on one logarithmic axis.

    Args:
        label: of that axis.
        ticks: names of its places.
        caption: stands below.
    """
    figure = Figure(figsize=(3.6 * len(panels) + 1.2, 3.6), layout="constrained")
    names = list(dict.fromkeys(line.name for panel in panels for line in panel.lines))
    drawn = {}
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for line in panel.lines:
            marker, stroke, colour = STYLES[names.index(line.name) % len(STYLES)]
            drawn[line.name] = axes.errorbar(
                line.places,
                [row.score for row in line.rows],
                errors(line.rows),
                marker=marker,
                linestyle=stroke,
                color=colour,
                markersize=5,
                linewidth=1.4,
                elinewidth=0.8,
                capsize=3,
            )
        if panel.base is not None:
            axes.axhline(panel.base, color=GREY, linewidth=1, linestyle=(0, (2, 2)), zorder=0)
            axes.annotate("base", (0.01, panel.base), (0, 2), **ABOVE, color=GREY, fontsize="small")
        axes.set(title=panel.title, xlabel=label, xscale="log")
        axes.set_xticks(list(ticks), list(ticks.values()))
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("score on held-out questions")
    if len(names) > 1:
        figure.legend([drawn[name] for name in names], names, loc="outside upper center", ncols=4, frameon=False)
    return captioned(figure, caption)


ABOVE = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}


def matrix(
    values: np.ndarray,
    texts: Sequence[Sequence[str]],
    *,
    down: Sequence[str],
    across: Sequence[str],
    labels: tuple[str, str],
    caption: str,
) -> Figure:
    """A grid of numbers, written into fields that are the darker the higher they are.

    Args:
        values: lines x columns; NaN for an empty field.
        texts: what is written into each field.
        down, across: names of the lines and of the columns.
        labels: what lines and columns are.
    """
    size = (1.05 * len(across) + NAME * max(map(len, down)) + 1.4, 0.55 * len(down) + 1.7)
    figure = Figure(figsize=(max(size[0], 4.6), size[1]), layout="constrained")
    axes = figure.subplots()
    top = np.nanmax(values) if np.isfinite(values).any() else 1.0
    # The darkest grey still lets black letters be read.
    axes.imshow(values, cmap="Greys", vmin=0, vmax=1.8 * max(top, 1e-9), aspect="auto")
    for line, column in np.ndindex(values.shape):
        axes.text(column, line, texts[line][column], ha="center", va="center", fontsize="small")
    axes.set_xticks(range(len(across)), across, rotation=20, ha="right", fontsize="small")
    axes.set_yticks(range(len(down)), down, fontsize="small")
    axes.set(ylabel=labels[0], xlabel=labels[1])
    axes.set_xticks(np.arange(len(across) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(down) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    return captioned(figure, caption)


def dots(panels: Mapping[str, Sequence[Row]], *, caption: str, reference: str | None = None) -> Figure:
    """A panel for each task: rows below each other, each a dot with its interval; small dots are the extreme draws.

    `reference` has a line through all panels.
    """
    names = list(dict.fromkeys(row.method for rows in panels.values() for row in rows))
    width = 2.7 * len(panels) + NAME * max(map(len, names)) + 0.4
    figure = Figure(figsize=(width, 0.3 * len(names) + 1.5), layout="constrained")
    for axes, (title, rows) in zip(
        figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels.items(), strict=True
    ):
        for row in rows:
            at = names.index(row.method)
            bold = row.method == reference
            axes.errorbar(
                row.score,
                at,
                xerr=errors([row]),
                fmt="D" if bold else "o",
                color=STYLES[1][2] if bold else STYLES[0][2],
                markersize=6 if bold else 4.5,
                elinewidth=0.9,
                capsize=2.5,
            )
            if row.lowest is not None and row.highest is not None:
                axes.plot([row.lowest, row.highest], [at + 0.25] * 2, "|-", color=GREY, markersize=5, linewidth=0.8)
            if bold:
                axes.axvline(row.score, color=GREY, linewidth=0.8, linestyle="--", zorder=0)
        axes.set(title=title, ylim=(len(names) - 0.5, -0.5))
        axes.set_yticks(range(len(names)), names, fontsize="small")
        axes.grid(axis="x", color="#dadce0", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    return captioned(figure, caption)


def layer_bars(panels: Mapping[str, Mapping[str, np.ndarray]], *, caption: str) -> Figure:
    """A panel for each title: how many heads each row tunes in each layer, the rows' bars beside each other."""
    figure = Figure(figsize=(7.2, 1.9 * len(panels) + 0.9), layout="constrained")
    names = list(dict.fromkeys(name for rows in panels.values() for name in rows))
    for axes, (title, rows) in zip(
        figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0], panels.items(), strict=True
    ):
        for name, counts in rows.items():
            at = names.index(name)
            width = 0.84 / len(names)
            places = np.arange(len(counts)) + (at - (len(names) - 1) / 2) * width
            hatch = ("", "////", "....", "xxxx", "\\\\\\\\", "++++")[at % 6]
            axes.bar(
                places, counts, width, color=STYLES[at % len(STYLES)][2], hatch=hatch, edgecolor="white", label=name
            )
        axes.set_title(title, fontsize="medium")
        axes.set_ylabel("heads")
        quarters(axes, len(counts))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[-1].set_xlabel("layer")
    if len(names) > 1:
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    return captioned(figure, caption)


def quarters(axes: Axes, layers: int) -> None:
    """Lines between the quarters of depth."""
    for quarter in (1, 2, 3):
        axes.axvline(ceil(quarter * layers / 4) - 0.5, color=GREY, linewidth=0.6, linestyle=":")


def errors(rows: Sequence[Row]) -> list[list[float]]:
    """How far the intervals reach below and above the scores."""
    # A bootstrap interval need not hold the mean; by rounding alone it can miss it.
    return [[max(row.score - row.low, 0) for row in rows], [max(row.high - row.score, 0) for row in rows]]


def captioned(figure: Figure, caption: str) -> Figure:
    """The figure with a caption below, as wide as it is."""
    letters = int(figure.get_size_inches()[0] / 0.075)
    figure.supxlabel(fill(caption, letters), fontsize="x-small", color=GREY)
    return figure
