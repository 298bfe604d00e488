"""Pictures of the results: scores with their intervals, what they took, and the norms of a model's heads."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from math import ceil, floor, log10
from pathlib import Path

import numpy as np

from lofit.extras import extra
from lofit.report.rows import Row, by_task
from lofit.storage.files import write_whole

with extra("pipeline", "pictures need"):
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Rectangle
    from matplotlib.ticker import MaxNLocator

INK = "#202124"
COLOURS = ("#9aa0a6", "#1a73e8", "#e8710a", "#188038", "#a142f4", "#d93025")

SITES = ("#1a73e8", "#188038", "#a142f4", "#12858d", "#b3261e", "#8d6e00")
"""Colours of rows by what they change."""

HIGHLIGHT = "#e8710a"

LABEL = 0.15
"""Height of a row's name beside a panel, in inches."""

NAMES = 0.7
"""Where the names begin, as a share of a panel's width."""

FEW_METHODS = 6
"""This many methods fit into a panel of the usual width."""

MANY_METHODS = 14
"""With more methods than this, their names stand beside lying bars."""


def score_bars(rows: Sequence[Row]) -> Figure:
    """A panel for each task, with a bar for each method and the 95 % interval of its score.

    `rows` holds one metric for each task. Two dots beside a bar show the lowest and the highest of several draws.
    With more than FEW_METHODS methods the figure is wider and higher, and the names of the methods are steeper; with
    more than MANY_METHODS the bars lie, and each has a line for its name.
    """
    tasks = list(dict.fromkeys(row.task for row in rows))
    methods = list(dict.fromkeys(row.method for row in rows))
    if len(methods) > MANY_METHODS:
        return lying_bars(rows, tasks, methods)
    few = len(methods) <= FEW_METHODS
    width = 2.9 if few else 2.9 * len(methods) / FEW_METHODS
    figure = Figure(figsize=(width * len(tasks) + 0.6, 3.2 if few else 4.2), layout="constrained")
    for axes, task in zip(figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0], tasks, strict=True):
        for row in (row for row in rows if row.task == task):
            at = methods.index(row.method)
            # A bootstrap interval need not reach the mean; by rounding alone it can miss it.
            spread = [[max(row.score - row.low, 0)], [max(row.high - row.score, 0)]]
            axes.bar(at, row.score, yerr=spread, capsize=4, width=0.7, color=COLOURS[at % len(COLOURS)])
            top, gap = row.high, 3
            if row.lowest is not None and row.highest is not None:
                # A little higher, so that the label does not touch the dot.
                top, gap = max(top, row.highest), 5
                beside = [at + 0.22, at + 0.22]
                axes.plot(beside, [row.lowest, row.highest], "o-", color=INK, markersize=3, linewidth=0.8)
            axes.annotate(f"{row.score:.2f}", (at, top), (0, gap), textcoords="offset points", ha="center")
            metric = row.metric
        axes.set(title=f"{task}\n{metric}", ylim=(0, 1.12), xticks=range(len(methods)))
        axes.set_xticklabels(methods, rotation=20 if few else 45, ha="right")
        axes.spines[["top", "right"]].set_visible(False)
    figure.supylabel("score on held-out questions")
    if any(row.draws > 1 for row in rows):
        figure.supxlabel("dots: the lowest and the highest draw", fontsize="small")
    return figure


def lying_bars(rows: Sequence[Row], tasks: Sequence[str], methods: Sequence[str]) -> Figure:
    """`score_bars` for many methods: the first one on top, and a line across each panel at the score of the first."""
    figure = Figure(figsize=(1.8 + 2.8 * len(tasks), 1.2 + 0.24 * len(methods)), layout="constrained")
    for axes, task in zip(figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0], tasks, strict=True):
        for row in (row for row in rows if row.task == task):
            at = methods.index(row.method)
            spread = [[max(row.score - row.low, 0)], [max(row.high - row.score, 0)]]
            # Neighbours differ in colour already by their place; one colour for all, another for the first.
            axes.barh(at, row.score, xerr=spread, capsize=2, height=0.7, color=COLOURS[min(at, 1)])
            end = row.high
            if row.lowest is not None and row.highest is not None:
                end = max(end, row.highest)
                below = [at + 0.22, at + 0.22]
                axes.plot([row.lowest, row.highest], below, "o-", color=INK, markersize=2.5, linewidth=0.8)
            axes.annotate(
                f"{row.score:.2f}", (end, at), (4, 0), textcoords="offset points", va="center", fontsize="small"
            )
            if at == 0:
                axes.axvline(row.score, color=COLOURS[0], linewidth=0.8, linestyle="--", zorder=0)
            metric = row.metric
        axes.set(
            title=f"{task}\n{metric}",
            xlim=(0, 1.14),
            xticks=(0, 0.5, 1),
            ylim=(len(methods) - 0.4, -0.6),
            yticks=range(len(methods)),
        )
        axes.set_yticklabels(methods, fontsize="small")
        axes.spines[["top", "right"]].set_visible(False)
    label = "score on held-out questions"
    if any(row.draws > 1 for row in rows):
        label += "; dots: the lowest and the highest draw"
    figure.supxlabel(label, fontsize="small")
    return figure


def pareto(rows: Sequence[Row], *, baseline: str | None = "base", highlight: str | None = "lofit") -> Figure:
    """A panel for each task: scores with their 95 % intervals against the numbers that an adapter holds, as logarithms.

    The names of the rows stand on the right, by score, each with a line to its point. A row without numbers has no
    place on such an axis: the baseline is a line across the panel, and others are left out.

    Args:
        rows: one metric for each task.
        baseline: the row that is drawn as a line.
        highlight: the row in a colour of its own; the others have that of their site.
    """
    points = [row for row in rows if row.numbers > 0 and row.method != baseline]
    sites = list(dict.fromkeys(row.facts.site for row in points))
    colours = {row.method: SITES[sites.index(row.facts.site) % len(SITES)] for row in points}
    colours |= {highlight: HIGHLIGHT} if highlight in colours else {}
    tasks = by_task(rows)
    most = max(sum(row.task == task for row in points) for task in tasks)
    height = max(2.6, LABEL * most + 0.9)
    figure = Figure(figsize=(7.6, height * len(tasks) + 0.5), layout="constrained")
    for axes, (task, members) in zip(figure.subplots(len(tasks), 1, squeeze=False)[:, 0], tasks.items(), strict=True):
        axes.set(title=f"{task}: {members[0].metric}", xscale="log", ylabel="score on held-out questions")
        axes.spines[["top", "right"]].set_visible(False)
        low, high = min(row.low for row in members), max(row.high for row in members)
        axes.set_ylim(low - 0.05 * (high - low) - 0.01, high + 0.05 * (high - low) + 0.01)
        for row in members:
            if row.method == baseline:
                axes.axhline(row.score, xmax=NAMES, color=COLOURS[0], linestyle="--", linewidth=1, zorder=0)
                axes.annotate(
                    row.method,
                    (0.005, row.score),
                    (0, 2),
                    xycoords=("axes fraction", "data"),
                    textcoords="offset points",
                    color="#5f6368",
                    fontsize="x-small",
                )
        # One axis for all panels, so that a row stands at the same place in each.
        limit_numbers(axes, [row.numbers for row in points])
        draw_points(axes, [row for row in points if row.task == task], colours, gap=LABEL / (height - 0.7))
    figure.axes[-1].set_xlabel("numbers in the adapter")
    if any(sites):
        dots = [
            Line2D([], [], marker="o", linestyle="", markersize=4, color=SITES[at % len(SITES)])
            for at in range(len(sites))
        ]
        figure.legend(
            dots,
            [site or "other" for site in sites],
            loc="outside lower center",
            ncols=4,
            frameon=False,
            fontsize="x-small",
        )
    return figure


def limit_numbers(axes: Axes, numbers: Sequence[int]) -> None:
    """Limits and ticks of the logarithmic axis: the numbers on the left, room for names on the right."""
    first, last = (log10(end) for end in (min(numbers, default=1), max(numbers, default=1)))
    first, last = first - 0.25, last + 0.25
    axes.set_xlim(10**first, 10 ** (first + (last - first) / NAMES))
    powers = [10**power for power in range(ceil(first), floor(last) + 1)]
    axes.set_xticks(powers)
    axes.minorticks_off()
    if numbers and not powers:
        # Sizes that are much alike may lie between two powers of ten.
        ends = sorted({min(numbers), max(numbers)})
        axes.set_xticks(ends, [f"{end:,}" for end in ends])


def draw_points(axes: Axes, points: Sequence[Row], colours: Mapping[str, str], *, gap: float) -> None:
    """The points of a panel with their intervals and names, which are `gap` of its height apart.

    Points of the same number stand side by side, so that their intervals can be told apart.
    """
    low, high = axes.get_ylim()
    ordered = sorted(points, key=lambda row: row.score)
    heights = spread([(row.score - low) / (high - low) for row in ordered], gap)
    for row, height in zip(ordered, heights, strict=True):
        alike = [other.method for other in points if other.numbers == row.numbers]
        aside = min(0.04, 0.3 / len(alike)) * (alike.index(row.method) - (len(alike) - 1) / 2)
        x = row.numbers * 10**aside
        colour = colours[row.method]
        front = colour == HIGHLIGHT
        error = [[max(row.score - row.low, 0)], [max(row.high - row.score, 0)]]
        axes.errorbar(
            x,
            row.score,
            error,
            fmt="D" if front else "o",
            color=colour,
            markersize=6 if front else 4,
            elinewidth=0.8,
            alpha=1 if front else 0.75,
            zorder=4 if front else 3,
        )
        axes.annotate(
            f"{row.method} {row.score:.2f}",
            (x, row.score),
            (NAMES + 0.04, height),
            textcoords="axes fraction",
            va="center",
            color=colour,
            fontsize="x-small",
            weight="bold" if front else "normal",
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5, "alpha": 0.5, "relpos": (0, 0.5)},
        )


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Rising heights from 0 to 1, moved as little as possible (in squares) so that neighbours are `gap` apart.

    Where there are too many for that, they fill the whole height evenly.
    """
    gap = min(gap, 1 / max(len(heights), 1))
    # Without the gaps the heights have to rise: neighbours that fall are pooled at their mean.
    pools: list[tuple[float, int]] = []
    for place, height in enumerate(heights):
        mean, count = height - place * gap, 1
        while pools and pools[-1][0] > mean:
            other, size = pools.pop()
            mean, count = (mean * count + other * size) / (count + size), count + size
        pools.append((mean, count))
    free = [mean for mean, count in pools for _ in range(count)]
    top = 1 - len(heights) * gap
    return [min(max(mean, gap / 2), gap / 2 + top) + place * gap for place, mean in enumerate(free)]


def heat_maps(grids: Sequence[tuple[str, np.ndarray, Sequence[tuple[int, int]]]]) -> Figure:
    """Norms of the scales as heat maps, side by side.

    Each grid is (title, norms, heads to frame): norms are layers x heads, and a head is (layer, head). The first grid
    decides the size of the picture.
    """
    layers, heads = grids[0][1].shape
    size = (len(grids) * max(3.2, 0.16 * heads + 1.6), max(2.4, 0.16 * layers + 1.3))
    figure = Figure(figsize=size, layout="constrained")
    for axes, (title, norms, chosen) in zip(figure.subplots(1, len(grids), squeeze=False)[0], grids, strict=True):
        figure.colorbar(draw_norms(axes, norms, chosen), ax=axes, label="norm of the scales")
        axes.set(title=title, xlabel="head", ylabel="layer")
    return figure


def draw_norms(axes: Axes, norms: np.ndarray, chosen: Sequence[tuple[int, int]]) -> ScalarMappable:
    """Draw norms, layers x heads, and frame the `chosen` heads. Returns the image, which a colour bar needs."""
    for layer, head in chosen:
        axes.add_patch(Rectangle((head - 0.5, layer - 0.5), 1, 1, fill=False, edgecolor="#e8710a", linewidth=2))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    return axes.imshow(norms, aspect="auto", cmap="Blues", vmin=0)


def message(text: str) -> Figure:
    """A figure that says why there is nothing to show."""
    figure = Figure(figsize=(6, 1.2))
    figure.text(0.5, 0.5, text, ha="center", va="center")
    return figure


def save(figure: Figure, file: Path) -> None:
    """Write `figure` as a PNG file. The same figure gives the same bytes."""
    content = BytesIO()
    # The default metadata names the version of matplotlib.
    figure.savefig(content, format="png", dpi=130, metadata={"Software": None})
    write_whole(file, content.getvalue())
