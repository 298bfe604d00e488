"""The rows of the table: intervals against a plain bootstrap, gains on the same records, draws."""

import numpy as np
import pytest

from lofit.report.rows import RESAMPLES, Cell, Facts, interval, record_weights, rows_of_task

HEADS = [(3, 1), (0, 7)]
EVEN = np.full(3000, 1 / 3000)


@pytest.fixture
def scores():
    return np.random.default_rng(1).random((2, 60))


# ------------------------------------------------------------------------------------------------------- intervals


def test_the_interval_of_a_constant_is_the_constant():
    assert interval(np.full((3, 40), 0.25), EVEN[:40]) == pytest.approx((0.25, 0.25), abs=1e-12)


def test_the_interval_of_one_run_is_that_of_a_plain_bootstrap(scores):
    generator = np.random.default_rng(99)
    means = [np.mean([scores[0][i] for i in generator.integers(60, size=60)]) for _ in range(4000)]
    assert interval(scores[:1], EVEN[:60]) == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.006)


def test_the_interval_is_that_of_the_normal_law_where_there_are_many_records():
    scores = (np.random.default_rng(2).random((1, 3000)) < 0.3).astype(float)
    spread = 1.96 * scores.std() / 3000**0.5
    assert interval(scores, EVEN) == pytest.approx((scores.mean() - spread, scores.mean() + spread), abs=0.003)


def test_runs_are_resampled_and_share_their_records(scores):
    generator = np.random.default_rng(99)
    means = []
    for _ in range(4000):
        records = generator.integers(60, size=60)
        means.append(np.mean([scores[run][records].mean() for run in generator.integers(2, size=2)]))
    assert interval(scores, EVEN[:60]) == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.008)


def test_runs_that_differ_widen_the_interval():
    assert interval(np.stack([np.zeros(40), np.ones(40)]), EVEN[:40]) == (0.0, 1.0)


def test_the_interval_over_folds_is_that_of_a_bootstrap_of_fold_means():
    values, folds = np.random.default_rng(3).random((1, 300)), np.repeat([0, 1], [200, 100])
    generator, means = np.random.default_rng(99), []
    for _ in range(4000):
        picked = generator.integers(300, size=300)
        left, right = values[0][picked[folds[picked] == 0]], values[0][picked[folds[picked] == 1]]
        means.append((left.mean() + right.mean()) / 2)
    assert interval(values, record_weights(folds)) == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.006)


# ------------------------------------------------------------------------------------------------ scores and gains


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("sizes", [{0: 40}, {0: 30, 1: 17}, {1: 12, 0: 30}], ids=["one fold", "two folds", "1 then 0"])
def test_with_one_draw_the_numbers_are_those_of_the_table_before_draws(seeds, sizes):
    generator = np.random.default_rng(4)
    records = [{fold: generator.random(size) for fold, size in sizes.items()} for _ in range(2 * seeds)]
    cells = [Cell({(1, fold): {"em": values} for fold, values in of_seed.items()}, {}, 8) for of_seed in records]
    base, tuned = rows_of_task("mquake", {"base": cells[:seeds], "lofit": cells[seeds:]}, baseline="base")

    flat = np.stack([np.concatenate(list(of_seed.values())) for of_seed in records])
    folds = np.concatenate([np.full(size, fold) for fold, size in sizes.items()])
    before, after = flat[:seeds], flat[seeds:]
    assert (base.score, base.low, base.high) == before_draws(before, folds)
    assert (tuned.score, tuned.low, tuned.high) == before_draws(after, folds)
    assert (tuned.gain, tuned.gain_low, tuned.gain_high) == before_draws(after - before, folds)
    assert (tuned.draws, tuned.lowest, tuned.highest) == (1, None, None)


def before_draws(scores, folds):
    """Score and interval of seeds x records, to the bit as the report computed them when there was one draw."""
    shares = np.array([1 / (len(set(folds)) * np.sum(folds == fold)) for fold in folds])
    generator = np.random.default_rng(0)
    picked = generator.integers(len(folds), size=(RESAMPLES, len(folds)))
    drawn = generator.integers(len(scores), size=(RESAMPLES, len(scores)))
    means = []
    for i in range(RESAMPLES):
        values = scores[drawn[i]].mean(axis=0)
        means.append(np.average(values[picked[i]], weights=shares[picked[i]]))
    return (float((scores.mean(axis=0) * shares).sum()), *map(float, np.percentile(means, [2.5, 97.5])))


def test_two_computations_give_the_same_rows(scores):
    cells = {"base": [cell(scores[0])], "lofit": [cell(scores[1])]}
    assert rows_of_task("mquake", cells, baseline="base") == rows_of_task("mquake", cells, baseline="base")


def test_a_gain_is_measured_record_by_record(scores):
    noise = scores[0]
    base, tuned = rows_of_task("mquake", {"base": [cell(noise)], "lofit": [cell(noise + 0.1)]}, baseline="base")
    assert (base.gain, base.gain_low, base.gain_high) == (None, None, None)
    # The records differ far more than the methods do: unpaired, the interval would reach below zero.
    assert (tuned.gain, tuned.gain_low, tuned.gain_high) == pytest.approx((0.1, 0.1, 0.1))
    assert tuned.high - tuned.low > 0.1
    assert tuned.score == pytest.approx(base.score + 0.1)


def test_a_gain_is_measured_seed_by_seed(scores):
    better = scores + np.array([[0.1], [0.3]])
    cells = {"base": [cell(row) for row in scores], "lofit": [cell(row) for row in better]}
    row = rows_of_task("mquake", cells, baseline="base")[1]
    assert row.gain == pytest.approx(0.2)
    assert (row.gain_low, row.gain_high) == pytest.approx((0.1, 0.3))


@pytest.mark.parametrize("baseline", ["base", None])
def test_there_is_no_gain_without_the_baseline(scores, baseline):
    (row,) = rows_of_task("mquake", {"lofit": [cell(scores[0])]}, baseline=baseline)
    assert row.gain is None and row.score == pytest.approx(scores[0].mean())


def test_every_fold_counts_alike_however_many_records_it_has():
    base = folded([0.0, 0.0, 0.0], [0.0, 0.0])
    tuned = folded([1.0, 1.0, 1.0], [0.0, 0.5])
    row = rows_of_task("truthfulqa", {"base": [base], "lofit": [tuned]}, baseline="base")[1]
    assert (row.score, row.gain) == pytest.approx(((1.0 + 0.25) / 2, (1.0 + 0.25) / 2))


def test_rows_come_metric_by_metric_and_within_a_metric_in_the_order_of_the_methods(scores):
    both = Cell({(1, 0): {"mc2": scores[0], "mc1": scores[1]}}, {(1, 0): HEADS}, 24)
    rows = rows_of_task("truthfulqa", {"lofit": [both], "base": [both]}, baseline="base")
    assert [(row.metric, row.method) for row in rows] == [
        ("mc2", "lofit"),
        ("mc2", "base"),
        ("mc1", "lofit"),
        ("mc1", "base"),
    ]
    assert rows[0].score == pytest.approx(scores[0].mean()) and rows[2].score == pytest.approx(scores[1].mean())


# ------------------------------------------------------------------------------------------- what else is measured


def test_a_row_says_what_its_cells_say_and_its_share_of_the_model(scores):
    facts = Facts("heads", "head outputs", "all", "o_proj bias", 30, 420, 9)
    tuned = Cell({(1, 0): {"em": scores[0]}}, {}, 24, facts)
    (row,) = rows_of_task("mquake", {"lofit": [tuned]}, baseline=None, model_size=4800)
    assert (row.facts, row.share, row.numbers) == (facts, 0.5, 30)
    (plain,) = rows_of_task("mquake", {"lofit": [cell(scores[0])]}, baseline=None)
    assert (plain.facts, plain.share, plain.numbers) == (Facts(), None, 24)


def test_drift_is_a_mean_over_seeds_draws_and_folds_and_unknown_where_a_part_was_not_measured(scores):
    parts = [(1, 0), (2, 0)]

    def made(*values):
        drift = {part: {"ce": ce, "kl": kl} for part, (ce, kl) in zip(parts, values, strict=False)}
        return Cell({part: {"em": scores[0]} for part in parts}, {}, 24, drift=drift)

    cells = [made((0.1, 0.2), (-0.3, 0.4)), made((0.5, 0.6), (0.1, 0.8))]
    (row,) = rows_of_task("mquake", {"lofit": cells}, baseline=None)
    assert (row.ce, row.kl) == pytest.approx((0.1, 0.5))
    (some,) = rows_of_task("mquake", {"lofit": [cells[0], made((0.5, 0.6))]}, baseline=None)
    assert (some.ce, some.kl) == (None, None)


# --------------------------------------------------------------------------------------------------- several draws


def drawn(*draws, heads=()):
    """A cell with one fold, from the scores of each draw."""
    return Cell(
        {(draw, 0): {"em": np.asarray(values, float)} for draw, values in enumerate(draws, start=1)},
        {(draw, 0): chosen for draw, chosen in enumerate(heads, start=1)},
        24,
    )


def test_a_score_is_the_mean_over_draws_and_its_range_that_of_the_draws_over_seeds_and_folds():
    def made(first, second):
        parts = {(1, 0): first[0], (1, 1): first[1], (2, 0): second[0], (2, 1): second[1]}
        return Cell({part: {"em": np.array(values)} for part, values in parts.items()}, {}, 24)

    cells = [
        made(first=([0.0, 0.0, 0.3], [0.5]), second=([0.9, 0.9, 0.9], [0.7])),
        made(first=([0.2, 0.2, 0.2], [0.1]), second=([0.4, 0.4, 0.4], [0.2])),
    ]
    (row,) = rows_of_task("mquake", {"random": cells}, baseline=None)
    first = ((0.1 + 0.5) / 2 + (0.2 + 0.1) / 2) / 2
    second = ((0.9 + 0.7) / 2 + (0.4 + 0.2) / 2) / 2
    assert row.draws == 2
    assert (row.lowest, row.highest) == pytest.approx((first, second))
    assert row.score == pytest.approx((first + second) / 2)


def test_the_interval_over_draws_is_that_of_as_many_seeds():
    values = np.random.default_rng(5).random((2, 3, 40)) + np.array([0.0, 0.3, 0.9])[:, None]
    (several,) = rows_of_task("mquake", {"random": [drawn(*of_seed) for of_seed in values]}, baseline=None)
    (seeds,) = rows_of_task("mquake", {"random": [drawn(run) for run in values.reshape(6, 40)]}, baseline=None)
    assert (several.score, several.low, several.high) == (seeds.score, seeds.low, seeds.high)


def test_a_gain_of_each_draw_is_over_the_baseline_of_its_seed(scores):
    # Seeds and records of the baseline differ by far more than the gains do.
    base = scores + np.array([[0.0], [5.0]])
    gains = np.array([[0.1, 0.2], [0.3, 0.6]])
    random = [drawn(base[seed] + gains[seed, 0], base[seed] + gains[seed, 1]) for seed in range(2)]
    cells = {"base": [drawn(row) for row in base], "random": random}
    row = rows_of_task("mquake", cells, baseline="base")[1]
    assert row.gain == pytest.approx(0.3)
    # Of four runs, each resample takes four: nearly the extremes in 2.5 % of the resamples.
    assert 0.1 < row.gain_low < 0.2 and 0.4 < row.gain_high < 0.6
    assert (row.gain_low, row.gain_high) == pytest.approx(interval(np.repeat(gains.reshape(4, 1), 60, 1), EVEN[:60]))


def test_the_heads_of_draws_seeds_and_folds_are_told_apart(scores):
    parts = {(draw, fold): {"em": scores[0]} for draw in (1, 2) for fold in (0, 1)}
    first = Cell(parts, {(1, 0): HEADS, (1, 1): [(1, 1)], (2, 0): [(2, 2)], (2, 1): [(2, 3)]}, 24)
    second = Cell(parts, {(1, 0): [(5, 0)], (1, 1): [(5, 1)], (2, 0): [(6, 0)], (2, 1): [(6, 1)]}, 24)
    (row,) = rows_of_task("mquake", {"random": [first, second]}, baseline=None)
    assert row.heads == ("3.1 0.7; 1.1; 5.0; 5.1", "2.2; 2.3; 6.0; 6.1")


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"base": [drawn([1, 0])], "lofit": [drawn([1, 0]), drawn([1, 0])]}, "lofit: got 2 seeds; expected 1"),
        ({"base": [drawn([1, 0], [0, 1])], "lofit": [drawn([1, 0])]}, "base: got 2 draws; expected one"),
        ({"base": [drawn([1, 0])], "lofit": [drawn([1, 0, 1])]}, r"lofit: got a score table of .*'em': 3.*'em': 2"),
        ({"base": [drawn([1, 0])], "lofit": [Cell({(1, 1): {"em": np.ones(2)}}, {}, 0)]}, "lofit: got a score table"),
        ({"base": [drawn([1, 0])], "lofit": [Cell({(1, 0): {"mc1": np.ones(2)}}, {}, 0)]}, "lofit: got a score table"),
        ({"random": [drawn([1, 0], [0, 1]), drawn([1, 0])]}, "random: got a score table"),
    ],
    ids=["seeds", "draws of the baseline", "records", "folds", "metrics", "draws of a seed"],
)
def test_cells_that_do_not_fit_together_are_refused(cells, message):
    with pytest.raises(ValueError, match=f"^mquake, {message}"):
        rows_of_task("mquake", cells, baseline="base")


# --------------------------------------------------------------------------------------------------------- helpers


def cell(scores):
    return Cell({(1, 0): {"em": scores}}, {(1, 0): HEADS}, 24)


def folded(*folds):
    """A cell with one draw, from the scores of each fold."""
    return Cell({(1, fold): {"em": np.array(values)} for fold, values in enumerate(folds)}, {}, 8)
