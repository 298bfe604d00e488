"""Bars, intervals, dots of draws, and labels that can be read."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.container import BarContainer

from lofit.report.plots import HIGHLIGHT, heat_maps, pareto, save, score_bars, spread
from lofit.report.plots import NAMES as WHERE_NAMES_BEGIN
from lofit.report.rows import Facts, Row

ROW = Row("mquake", "base", "em", 0.5, 0.4, 0.6, None, None, None, 1, None, None, 0, ("",))
NAMES = ["base", "lofit", "lofit_10pct", "random_heads", "random_same_layers", "random_all_layers", "listed", "late"]


def rows_of(methods, **changes):
    return [replace(ROW, task=task, method=method, **changes) for task in ("mquake", "clutrr") for method in methods]


def dots(axes):
    return [line for line in axes.lines if line.get_marker() == "o"]


def test_a_panel_has_a_bar_for_each_method_with_its_score_and_interval():
    rows = [ROW, replace(ROW, method="lofit", score=0.75, low=0.7, high=0.9), replace(ROW, task="clutrr", score=0.1)]
    left, right = score_bars(rows).axes
    assert [bar.get_height() for bar in left.patches] == [0.5, 0.75]
    assert [bar.get_height() for bar in right.patches] == [0.1]
    bars = [container for container in left.containers if isinstance(container, BarContainer)]
    (interval,) = bars[1].errorbar.lines[2][0].get_segments()
    assert interval[:, 1] == pytest.approx([0.7, 0.9])
    assert [label.get_text() for label in left.get_xticklabels()] == ["base", "lofit"]
    assert (left.get_title(), right.get_title()) == ("mquake\nem", "clutrr\nem")
    assert [text.get_text() for text in left.texts] == ["0.50", "0.75"]


def test_two_dots_show_the_lowest_and_the_highest_draw_of_a_row_that_has_several():
    random = replace(ROW, method="random", draws=10, lowest=0.2, highest=0.7)
    figure = score_bars([ROW, random])
    (range_of_draws,) = dots(figure.axes[0])
    assert list(range_of_draws.get_ydata()) == [0.2, 0.7]
    # On the bar, and beside its interval.
    assert set(range_of_draws.get_xdata()) == {range_of_draws.get_xdata()[0]}
    assert 1 < range_of_draws.get_xdata()[0] < 1.35
    assert "draw" in figure.get_supxlabel()
    plain = score_bars([ROW, replace(ROW, method="random")])
    assert dots(plain.axes[0]) == [] and plain.get_supxlabel() == ""


def test_the_score_of_a_row_stands_above_its_dots():
    for highest in (0.45, 0.95):
        axes = score_bars([replace(ROW, draws=2, lowest=0.3, highest=highest)]).axes[0]
        assert axes.texts[0].xy[1] == max(highest, 0.6)


@pytest.mark.parametrize("count", [7, 8, 14])
def test_many_methods_make_the_figure_wider_and_no_labels_overlap(count):
    methods = [*NAMES, *(f"random_same_layers_{n}" for n in range(6))][:count]
    figure = score_bars(rows_of(methods, draws=3, lowest=0.3, highest=0.7))
    assert figure.get_figwidth() > score_bars(rows_of(NAMES[:6])).get_figwidth()
    figure.draw_without_rendering()
    for axes in figure.axes:
        values = [text.get_window_extent() for text in axes.texts]
        assert len(values) == count and all(left.x1 < right.x0 for left, right in pairwise(values))
        names = axes.get_xticklabels()
        height = names[0].get_fontsize() * figure.dpi / 72
        # Names are parallel lines: what counts is the distance between them.
        apart = np.diff(axes.transData.transform([(0, 0), (1, 0)])[:, 0])[0]
        assert apart * math.sin(math.radians(names[0].get_rotation())) > 1.2 * height


def test_up_to_six_methods_the_size_does_not_depend_on_their_number():
    for count in (1, 3, 6):
        assert score_bars(rows_of(NAMES[:count])).get_size_inches() == pytest.approx([6.4, 3.2])


def test_more_methods_than_stand_lie_and_each_has_a_line_for_its_name():
    methods = [f"random_same_layers_{number}" for number in range(25)]
    rows = rows_of(methods, score=0.75, low=0.7, high=0.9)
    rows[0] = replace(rows[0], score=0.25, low=0.2, high=0.3)
    rows[3] = replace(rows[3], draws=9, lowest=0.6, highest=0.95)
    figure = score_bars(rows)
    left, right = figure.axes
    assert [bar.get_width() for bar in left.patches] == [0.25] + [0.75] * 24
    (line,) = dots(left)
    assert list(line.get_xdata()) == [0.6, 0.95] and 3 < line.get_ydata()[0] < 3.35
    assert [text.xy[0] for text in left.texts[2:5]] == [0.9, 0.95, 0.9]
    assert left.get_ylim()[0] > left.get_ylim()[1], "the first method is not on top"
    figure.draw_without_rendering()
    names = [label.get_window_extent() for label in left.get_yticklabels()]
    assert [label.get_text() for label in left.get_yticklabels()] == methods
    assert all(above.y0 > below.y1 for above, below in pairwise(names))
    assert names[0].x0 >= 0 and all(name.x1 < left.get_window_extent().x0 for name in names)
    assert right.get_title() == "clutrr\nem"


# ------------------------------------------------------------------------------------------------- scores by numbers


def crowd(count=25):
    """The base, LoFiT, and others, most of them with the same few numbers and much the same score."""
    rows = [ROW, replace(ROW, method="lofit", score=0.6, low=0.55, high=0.65, trained_parameters=48)]
    for number in range(count - 2):
        score = 0.6 + 0.002 * (number % 7)
        numbers = 48 if number < 12 else 10 ** (2 + number % 4)
        facts = Facts(site="head outputs" if number < 12 else "weights")
        method = f"random_same_layers_{number}"
        row = replace(ROW, method=method, score=score, low=score - 0.1, high=score + 0.05, facts=facts)
        rows.append(replace(row, trained_parameters=numbers))
    return rows


def names_of(axes):
    return {text.get_text().split()[0]: text for text in axes.texts}


def test_a_point_stands_at_its_numbers_and_score_with_its_interval_and_the_base_is_a_line():
    rows = [ROW, replace(ROW, method="lofit", trained_parameters=48, score=0.75, low=0.7, high=0.9)]
    lora = replace(ROW, method="lora", trained_parameters=10**5, score=0.6, facts=Facts(site="weights"))
    computed = replace(ROW, method="iti", facts=Facts(numbers=1000))
    (axes,) = pareto([*rows, lora, computed]).axes
    points = {tuple(point.lines[0].get_xydata()[0]): point for point in axes.containers}
    assert set(points) == {(48, 0.75), (10**5, 0.6), (1000, 0.5)}
    (interval,) = points[48, 0.75].lines[2][0].get_segments()
    assert interval[:, 1] == pytest.approx([0.7, 0.9])
    assert points[48, 0.75].lines[0].get_color() == HIGHLIGHT != points[10**5, 0.6].lines[0].get_color()
    assert [list(line.get_ydata()) for line in axes.lines if len(line.get_xdata()) == 2] == [[0.5, 0.5]]
    assert set(names_of(axes)) == {"base", "lofit", "lora", "iti"} and axes.get_xscale() == "log"


def test_a_row_without_numbers_is_left_out_but_for_the_base():
    (axes,) = pareto([ROW, replace(ROW, method="none"), replace(ROW, method="lofit", trained_parameters=48)]).axes
    assert set(names_of(axes)) == {"base", "lofit"}
    assert pareto([ROW]).axes[0].get_title() == "mquake: em"


@pytest.mark.parametrize(("numbers", "ticks"), [((512,), ["512"]), ((2500, 3100), ["2,500", "3,100"])])
def test_sizes_between_two_powers_of_ten_are_named(numbers, ticks):
    rows = [replace(ROW, method=f"row_{n}", trained_parameters=n, facts=Facts(numbers=n)) for n in numbers]
    (axes,) = pareto([ROW, *rows]).axes
    low, high = axes.get_xlim()
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ticks
    assert all(low < tick < high for tick in axes.get_xticks())


def test_the_names_of_a_crowd_do_not_overlap_and_stay_beside_the_points():
    rows = crowd()
    figure = pareto([*rows, *(replace(row, task="clutrr") for row in rows)])
    figure.draw_without_rendering()
    for axes in figure.axes:
        names = [text for text in axes.texts if text.get_text() != "base"]
        assert len(names) == 24
        # The box of a text holds the line to its point, too: what counts is how far apart the texts are.
        middles = sorted(axes.transAxes.transform(text.xyann)[1] for text in names)
        size = max(text.get_fontsize() for text in names) * figure.dpi / 72
        assert all(above - below > size for below, above in pairwise(middles))
        frame = axes.get_window_extent()
        assert frame.y0 < middles[0] and middles[-1] < frame.y1
        centres = [point.lines[0].get_xydata()[0] for point in axes.containers]
        assert max(axes.transData.transform(centres)[:, 0]) < frame.x0 + WHERE_NAMES_BEGIN * frame.width
        # Rows with the same number stand beside each other, near to it.
        same = [x for x, _ in centres if x < 80]
        assert len(set(same)) == len(same) == 13 and min(same) > 48 / 2
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim()


@pytest.mark.parametrize(
    ("heights", "gap", "expected"),
    [
        ([0.2, 0.5, 0.8], 0.1, [0.2, 0.5, 0.8]),
        ([0.5, 0.5], 0.2, [0.4, 0.6]),
        ([0.5, 0.5, 0.55], 0.1, [0.4167, 0.5167, 0.6167]),
        ([0.0, 0.0], 0.2, [0.1, 0.3]),
        ([1.0, 1.0], 0.2, [0.7, 0.9]),
        ([0.1, 0.2, 0.9], 0.9, [1 / 6, 3 / 6, 5 / 6]),
        ([], 0.1, []),
    ],
    ids=["apart", "alike", "pushed", "below", "above", "too many", "none"],
)
def test_heights_are_moved_as_little_as_possible(heights, gap, expected):
    assert spread(heights, gap) == pytest.approx(expected, abs=1e-4)


def test_a_heat_map_frames_the_heads_at_their_layers():
    norms = np.arange(12.0).reshape(3, 4)
    panel, bar = heat_maps([("mquake", norms, [(2, 1), (0, 3)])]).axes
    assert np.array_equal(panel.images[0].get_array(), norms)
    centres = [(frame.get_y() + 0.5, frame.get_x() + 0.5) for frame in panel.patches]
    assert centres == [(2, 1), (0, 3)]
    assert (panel.get_title(), panel.get_ylabel(), bar.get_ylabel()) == ("mquake", "layer", "norm of the scales")


@pytest.mark.parametrize(
    ("draw", "rows"),
    [(score_bars, rows_of(NAMES[:2])), (score_bars, rows_of([f"m{n}" for n in range(20)])), (pareto, crowd(8))],
    ids=["bars", "lying bars", "pareto"],
)
def test_the_same_rows_give_the_same_file(tmp_path, draw, rows):
    save(draw(rows), tmp_path / "one.png")
    save(draw(rows), tmp_path / "two.png")
    content = (tmp_path / "one.png").read_bytes()
    assert content.startswith(b"\x89PNG") and content == (tmp_path / "two.png").read_bytes()
    assert b"Software" not in content
