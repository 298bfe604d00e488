"""The rows as a picture: bars for variants side by side, curves for what grows."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from benchmarks.measure import Row, Series
from lofit.report.plots import COLOURS

COLUMNS = 3


def picture(series: Sequence[Series], rows: Sequence[Row]) -> Figure:
    """Bars on top, one line of the figure for each table; curves below, three to a line."""
    bars = [member for member in series if member.grows is None]
    curves = [member for member in series if member.grows is not None]
    lines = -(-len(curves) // COLUMNS)
    counts = [len(of(member, rows)) for member in bars]
    heights = [0.32 * count + 0.8 for count in counts] + [3.0] * lines
    figure = Figure(figsize=(13, sum(heights)), layout="constrained")
    grid = figure.add_gridspec(len(heights), COLUMNS, height_ratios=heights)
    for line, member in enumerate(bars):
        draw_bars(figure.add_subplot(grid[line, :]), member, of(member, rows))
    for place, member in enumerate(curves):
        line, column = divmod(place, COLUMNS)
        draw_curves(figure.add_subplot(grid[len(bars) + line, column]), member, of(member, rows))
    return figure


def of(series: Series, rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if (row.group, row.series) == (series.group, series.title)]


def draw_bars(axes: Axes, series: Series, rows: Sequence[Row]) -> None:
    """Times relative to the first row, with the lowest and the highest run."""
    unit = rows[0].median_ms
    for place, row in enumerate(rows):
        spread = [[(row.median_ms - row.low_ms) / unit], [(row.high_ms - row.median_ms) / unit]]
        colour = COLOURS[1] if row.name.startswith("lofit") else COLOURS[0]
        axes.barh(place, row.ratio, xerr=spread, capsize=3, color=colour)
        text = f"{row.ratio:.2f}  ({row.median_ms:,.0f} ms, {row.peak_mb:,.0f} MB)"
        axes.annotate(text, (row.high_ms / unit, place), (5, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set(yticks=range(len(rows)), xlim=(0, 1.3 * max(row.high_ms for row in rows) / unit))
    axes.set_yticklabels([row.name for row in rows], fontsize=8)
    axes.set_title(f"{series.group}: {series.title}; time relative to the first row", fontsize=10, loc="left")
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)


def draw_curves(axes: Axes, series: Series, rows: Sequence[Row]) -> None:
    """Median time, or peak memory, over what grows."""
    memory = series.shows == "memory"
    for place, name in enumerate(dict.fromkeys(row.name for row in rows)):
        own = [row for row in rows if row.name == name]
        heights = [row.peak_mb if memory else row.median_ms for row in own]
        spread = None if memory else [[r.median_ms - r.low_ms for r in own], [r.high_ms - r.median_ms for r in own]]
        colour = COLOURS[1:][place % (len(COLOURS) - 1)]
        axes.errorbar([r.size for r in own], heights, yerr=spread, marker="o", capsize=3, color=colour, label=name)
    sizes = sorted({row.size for row in rows if row.size is not None})
    if sizes[0] > 0 and len(sizes) > 1 and sizes[-1] / sizes[0] >= 4:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(sizes)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set(xlabel=series.grows, ylabel="peak MB" if memory else "ms", ylim=(0, 1.1 * axes.get_ylim()[1]))
    axes.set_title(f"{series.group}: {series.title}", fontsize=10, loc="left")
    axes.legend(fontsize=7, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
