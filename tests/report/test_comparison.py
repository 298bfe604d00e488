"""Comparisons with a reference row: against a plain bootstrap, under the null, and Holm's correction by hand."""

import numpy as np
import pytest

from lofit.report.comparison import Comparison, compare, holm, with_comparisons
from lofit.report.rows import Cell, record_weights, rows_of_task


def cell(*draws, metrics=("em",)):
    """A cell with one fold, from the scores of each draw by every metric."""
    parts = {(draw, 0): dict.fromkeys(metrics, np.asarray(values, float)) for draw, values in enumerate(draws, 1)}
    return Cell(parts, {}, 8)


def one(cells, **options):
    (found,) = compare({"mquake": cells}, reference="lofit", **options)
    return found


def naive(differences, folds, resamples):
    """Interval and p of runs x records, one resample after another, a sum for each fold."""
    generator = np.random.default_rng(99)
    runs, records = differences.shape

    def mean(values, of):
        return np.mean([values[of == fold].mean() for fold in np.unique(of)])

    observed = mean(differences.mean(axis=0), folds)
    means = []
    for _ in range(resamples):
        picked = generator.integers(records, size=records)
        values = differences[generator.integers(runs, size=runs)].mean(axis=0)
        weights = record_weights(folds)[picked]
        means.append(float((values[picked] * weights).sum() / weights.sum()))
    far = sum(abs(value - observed) >= abs(observed) for value in means)
    return observed, *np.percentile(means, [2.5, 97.5]), (1 + far) / (1 + resamples)


# --------------------------------------------------------------------------------------------------- one comparison


@pytest.mark.parametrize("sizes", [{0: 60}, {0: 50, 1: 20}], ids=["one fold", "two folds"])
def test_difference_interval_and_p_are_those_of_a_plain_bootstrap(sizes):
    generator = np.random.default_rng(1)
    folds = np.repeat(list(sizes), list(sizes.values()))

    def made(shift, draws):
        """Seeds x draws x records, and the cells that hold them."""
        values = generator.random((2, draws, len(folds))) + shift
        parts = [
            {(draw + 1, fold): {"em": of_seed[draw][folds == fold]} for draw in range(draws) for fold in sizes}
            for of_seed in values
        ]
        return values, [Cell(scores, {}, 8) for scores in parts]

    ours, reference = made(0.0, 1)
    theirs, random = made(-0.03, 3)
    found = one({"lofit": reference, "random": random})
    expected = naive((theirs - ours).reshape(6, -1), folds, 4000)
    assert (found.difference, found.low, found.high) == pytest.approx(expected[:3], abs=0.006)
    assert found.p == pytest.approx(expected[3], abs=0.03) and 0.02 < found.p < 0.5
    assert (found.task, found.method, found.metric, found.reference) == ("mquake", "random", "em", "lofit")
    assert found.corrected_p == found.p


def test_equal_scores_differ_by_nothing_with_p_one():
    scores = np.random.default_rng(2).random((3, 50))
    found = one({"lofit": [cell(row) for row in scores], "other": [cell(row) for row in scores]})
    assert (found.difference, found.low, found.high, found.p, found.corrected_p) == (0, 0, 0, 1, 1)


def test_a_difference_that_all_records_share_has_no_spread_however_folds_fall():
    def made(value):
        return Cell({(1, 0): {"em": np.full(30, value)}, (1, 1): {"em": np.full(7, value)}}, {}, 8)

    found = one({"lofit": [made(0.25)], "other": [made(5.25)]}, resamples=500)
    assert (found.difference, found.low, found.high) == pytest.approx((5, 5, 5))
    assert found.p == 1 / 501


def test_a_planted_difference_is_found_though_records_differ_by_more():
    generator = np.random.default_rng(3)
    scores = generator.random(300) * 10
    better = scores + 0.1 + 0.05 * generator.standard_normal(300)
    found = one({"lofit": [cell(scores)], "better": [cell(better)]}, resamples=2000)
    assert found.difference == pytest.approx(0.1, abs=0.01) and 0.08 < found.low < found.high < 0.12
    assert found.p == 1 / 2001
    worse = one({"lofit": [cell(better)], "worse": [cell(scores)]}, resamples=2000)
    assert (worse.difference, worse.low, worse.high) == pytest.approx((-found.difference, -found.high, -found.low))
    assert worse.p == found.p


def test_under_the_null_small_p_values_are_as_rare_as_they_say():
    generator = np.random.default_rng(4)
    values = []
    for _ in range(400):
        rows = {name: [cell((generator.random(100) < 0.4).astype(float))] for name in ("lofit", "other")}
        values.append(one(rows, resamples=400).p)
    values = np.array(values)
    # Binomial: 5 % of 400 is 20 with a deviation of 4.4, half of them 200 with 10.
    assert 8 <= (values <= 0.05).sum() <= 34
    assert 160 <= (values <= 0.5).sum() <= 240


def test_runs_that_disagree_count_against_a_difference():
    flat = np.zeros(40)
    agreed = one({"lofit": [cell(flat)] * 3, "other": [cell(flat + 0.2)] * 3})
    split = one({"lofit": [cell(flat)] * 3, "other": [cell(flat + shift) for shift in (-0.4, 0.4, 0.6)]})
    assert agreed.difference == pytest.approx(split.difference)
    assert agreed.p == 1 / 10_001 and split.p > 0.2


def test_draws_of_the_reference_are_averaged():
    generator = np.random.default_rng(5)
    drawn, other = generator.random((2, 30)), generator.random(30)
    several = one({"lofit": [cell(*drawn)], "other": [cell(other)]})
    mean = one({"lofit": [cell(drawn.mean(axis=0))], "other": [cell(other)]})
    assert several == mean


def test_the_same_cells_give_the_same_numbers_whatever_else_is_compared():
    generator = np.random.default_rng(6)
    cells = {name: [cell(generator.random(50))] for name in ("lofit", "one", "two")}
    first, second = compare({"mquake": cells}, reference="lofit", resamples=500)
    assert compare({"mquake": cells}, reference="lofit", resamples=500) == [first, second]
    alone = one({"lofit": cells["lofit"], "two": cells["two"]}, resamples=500)
    assert (alone.difference, alone.p) == pytest.approx((second.difference, second.p), abs=1e-12)
    assert compare({"mquake": cells}, reference="lofit", resamples=500, seed=1)[0].low != first.low


# --------------------------------------------------------------------------------------------------- several of them


def test_holm_on_an_example_worked_by_hand():
    # Sorted: .005 x 4 = .02, .01 x 3 = .03, .03 x 2 = .06, .04 x 1 = .04, which stays at .06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02] and holm([]) == []


def test_the_correction_is_over_rows_and_tasks_and_only_over_those_that_are_named():
    generator = np.random.default_rng(7)

    def cells(shifts):
        base = generator.random(200)
        noise = {name: 0.3 * generator.standard_normal(200) for name in shifts}
        return {
            "lofit": [cell(base, metrics=("mc1", "mc2"))],
            **{name: [cell(base + shift + noise[name], metrics=("mc1", "mc2"))] for name, shift in shifts.items()},
        }

    tasks = {"one": cells({"a": 0.05, "b": 0.03}), "two": cells({"a": 0.06, "c": 0.0})}
    tasks["without"] = {"a": [cell([1.0, 0.0])]}
    found = compare(tasks, reference="lofit")
    assert [(row.task, row.method, row.metric) for row in found] == [
        ("one", "a", "mc1"),
        ("one", "b", "mc1"),
        ("two", "a", "mc1"),
        ("two", "c", "mc1"),
    ]
    assert [row.corrected_p for row in found] == holm([row.p for row in found])
    assert max(row.corrected_p / row.p for row in found) == pytest.approx(4)
    named = compare(tasks, reference="lofit", methods=["a"])
    assert [row.method for row in named] == ["a", "a"]
    assert [row.p for row in named] == [found[0].p, found[2].p]
    assert max(row.corrected_p / row.p for row in named) == pytest.approx(2)


def test_cells_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError, match=r"^mquake, other: got a score table"):
        one({"lofit": [cell([1, 0])], "other": [cell([1, 0, 1])]})


def test_a_comparison_goes_to_the_row_of_its_task_method_and_metric():
    scores = np.random.default_rng(8).random(20)
    cells = {"base": [cell(scores, metrics=("mc1", "mc2"))], "lofit": [cell(scores + 1, metrics=("mc1", "mc2"))]}
    rows = rows_of_task("truthfulqa", cells, baseline="base")
    found = Comparison("truthfulqa", "base", "mc1", "lofit", -0.5, -0.75, -0.25, 0.01, 0.02)
    first, *others = with_comparisons(rows, [found])
    assert (first.reference, first.difference, first.p, first.corrected_p) == ("lofit", -0.5, 0.01, 0.02)
    assert (first.difference_low, first.difference_high) == (-0.75, -0.25)
    assert others == rows[1:] and first.score == rows[0].score
