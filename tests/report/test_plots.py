"""Bars, intervals, dots of draws, and labels that can be read."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.container import BarContainer

from lofit.report.plots import heat_maps, save, score_bars
from lofit.report.table import Row

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


def test_a_heat_map_frames_the_heads_at_their_layers():
    norms = np.arange(12.0).reshape(3, 4)
    panel, bar = heat_maps([("mquake", norms, [(2, 1), (0, 3)])]).axes
    assert np.array_equal(panel.images[0].get_array(), norms)
    centres = [(frame.get_y() + 0.5, frame.get_x() + 0.5) for frame in panel.patches]
    assert centres == [(2, 1), (0, 3)]
    assert (panel.get_title(), panel.get_ylabel(), bar.get_ylabel()) == ("mquake", "layer", "norm of the scales")


def test_the_same_rows_give_the_same_file(tmp_path):
    rows = rows_of(NAMES[:2])
    save(score_bars(rows), tmp_path / "one.png")
    save(score_bars(rows), tmp_path / "two.png")
    content = (tmp_path / "one.png").read_bytes()
    assert content.startswith(b"\x89PNG") and content == (tmp_path / "two.png").read_bytes()
    assert b"Software" not in content
