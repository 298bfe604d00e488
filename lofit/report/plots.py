"""Pictures of the results: scores with their intervals, and the norms of a model's heads."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np

from lofit.extras import extra
from lofit.report.table import Row
from lofit.storage.files import write_whole

with extra("pipeline", "pictures need"):
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle
    from matplotlib.ticker import MaxNLocator

COLOURS = ("#9aa0a6", "#1a73e8", "#e8710a", "#188038", "#a142f4", "#d93025")

FEW_METHODS = 6
"""This many methods fit into a panel of the usual width."""


def score_bars(rows: Sequence[Row]) -> Figure:
    """A panel for each task, with a bar for each method and the 95 % interval of its score.

    `rows` holds one metric for each task. Two dots beside a bar show the lowest and the highest of several draws.
    With more than FEW_METHODS methods the figure is wider and higher, and the names of the methods are steeper.
    """
    tasks = list(dict.fromkeys(row.task for row in rows))
    methods = list(dict.fromkeys(row.method for row in rows))
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
                axes.plot(beside, [row.lowest, row.highest], "o-", color="#202124", markersize=3, linewidth=0.8)
            axes.annotate(f"{row.score:.2f}", (at, top), (0, gap), textcoords="offset points", ha="center")
            metric = row.metric
        axes.set(title=f"{task}\n{metric}", ylim=(0, 1.12), xticks=range(len(methods)))
        axes.set_xticklabels(methods, rotation=20 if few else 45, ha="right")
        axes.spines[["top", "right"]].set_visible(False)
    figure.supylabel("score on held-out questions")
    if any(row.draws > 1 for row in rows):
        figure.supxlabel("dots: the lowest and the highest draw", fontsize="small")
    return figure


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
