"""Random draws as a distribution: ranks and p by hand, folds and seeds alike."""

import numpy as np
import pytest

from lofit.report.controls import control_table, controls
from lofit.report.rows import Cell


def cell(*draws):
    """A cell with one fold of two records, from the mean score of each draw."""
    return Cell({(draw, 0): {"em": np.array([mean, mean])} for draw, mean in enumerate(draws, 1)}, {}, 8)


def found(ours, *draws):
    (control,) = controls({"mquake": {"lofit": [cell(ours)], "random": [cell(*draws)]}}, reference="lofit")
    return control


@pytest.mark.parametrize(
    ("ours", "rank", "p"),
    [(0.9, 1, 1 / 6), (0.45, 3, 3 / 6), (0.1, 6, 1.0), (0.5, 3, 3 / 6)],
    ids=["best", "third", "last", "a draw with the same score comes first"],
)
def test_the_rank_and_p_of_the_reference_among_five_draws(ours, rank, p):
    control = found(ours, 0.2, 0.5, 0.3, 0.6, 0.4)
    assert (control.rank, control.p, control.draws) == (rank, pytest.approx(p), 5)
    assert (control.mean, control.lowest, control.highest) == pytest.approx((0.4, 0.2, 0.6))
    assert control.score == pytest.approx(ours)


def test_scores_that_differ_by_rounding_are_the_same():
    assert found(0.3, 0.1 + 0.2, 0.1).rank == found(0.1 + 0.2, 0.3, 0.1).rank == 2


def test_a_draw_is_a_mean_over_seeds_and_each_fold_counts_alike():
    def made(*draws):
        parts = {}
        for draw, (long, short) in enumerate(draws, 1):
            parts |= {(draw, 0): {"em": np.full(6, long)}, (draw, 1): {"em": np.full(2, short)}}
        return Cell(parts, {}, 8)

    cells = {
        "lofit": [made((0.6, 0.4)), made((0.5, 0.9))],
        "random": [made((0.0, 1.0), (0.2, 0.2)), made((0.4, 0.8), (0.6, 1.0))],
    }
    (control,) = controls({"mquake": cells}, reference="lofit")
    assert control.score == pytest.approx((0.5 + 0.7) / 2)
    assert (control.highest, control.lowest) == pytest.approx(((0.5 + 0.6) / 2, (0.2 + 0.8) / 2))
    assert control.rank == 1 and control.p == pytest.approx(1 / 3)


def test_rows_with_one_draw_are_no_controls_and_tasks_without_the_reference_have_none():
    cells = {"base": [cell(0.2)], "lofit": [cell(0.5)], "random": [cell(0.1, 0.6)], "layers": [cell(0.3, 0.4)]}
    found = controls({"mquake": cells, "clutrr": {"random": [cell(0.1, 0.2)]}}, reference="lofit")
    assert [(control.task, control.method, control.rank) for control in found] == [
        ("mquake", "random", 2),
        ("mquake", "layers", 1),
    ]
    assert control_table(controls({"mquake": {"lofit": [cell(0.5)]}}, reference="lofit")) == ""


def test_the_table_says_how_many_there_are_to_be_ranked_among():
    assert control_table([found(0.45, 0.2, 0.5, 0.3, 0.6, 0.4)]) == (
        "| task   | draws of | draws | mean  | lowest | highest | lofit | rank of lofit | p     |\n"
        "| ------ | -------- | ----- | ----- | ------ | ------- | ----- | ------------- | ----- |\n"
        "| mquake | random   | 5     | 0.400 | 0.200  | 0.600   | 0.450 | 3 of 6        | 0.500 |"
    )
