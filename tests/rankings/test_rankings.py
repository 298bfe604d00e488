"""Rankings of heads."""

import numpy as np
import pytest

from lofit import HeadLayout, LofitError
from lofit.rankings import from_task, random, random_same_layers, scale_norm, scores_of, top_heads
from lofit.rankings.scale_norm import heads_near_zero, warn_of_noise
from lofit.training.case import Case

LAYOUT = HeadLayout(5, 4, 2, ("o_proj",) * 5)
CASE = Case(LAYOUT)


@pytest.fixture
def norms():
    return np.random.default_rng(0).random((5, 4))


def test_a_norm_is_the_root_of_the_sum_of_squares():
    scales = np.array([[[3.0, -4.0], [0.0, 0.0]], [[1.0, 1.0], [-2.0, 0.0]]])
    np.testing.assert_allclose(scale_norm.rank(CASE, scale_norm.Settings(), scales), [[5.0, 0.0], [2**0.5, 2.0]])


def test_the_largest_norms_come_first(norms):
    ranked = sorted((-norms[at], at) for at in np.ndindex(norms.shape))[:7]
    heads = top_heads(norms, 7)
    assert heads == [at for _, at in ranked]
    assert all(type(part) is int for head in heads for part in head)


def test_ties_are_broken_by_layer_and_head():
    norms = np.zeros((3, 4))
    norms[1, 2] = 1
    assert top_heads(norms, 4) == [(1, 2), (0, 0), (0, 1), (0, 2)]


def test_a_selection_grows_from_the_smaller_ones(norms):
    everything = top_heads(norms, 20)
    assert sorted(everything) == list(np.ndindex(norms.shape))
    assert all(top_heads(norms, k) == everything[:k] for k in range(1, 20))


@pytest.mark.parametrize("seed", range(5))
def test_renumbering_the_heads_renumbers_the_selection(norms, seed):
    order = np.random.default_rng(seed).permutation(norms.size)
    renumbered = norms.flatten()[order].reshape(norms.shape)
    old = [int(order[layer * 4 + head]) for layer, head in top_heads(renumbered, 6)]
    assert old == [layer * 4 + head for layer, head in top_heads(norms, 6)]


def test_a_scale_of_all_norms_does_not_change_the_selection(norms):
    assert top_heads(norms * 1e-6, 6) == top_heads(norms.astype(np.float32), 6)


def test_a_random_selection_grows_from_the_smaller_ones():
    everything = draw(20)
    assert sorted(everything) == list(np.ndindex(LAYOUT.grid))
    assert all(draw(k) == everything[:k] for k in range(1, 20))


@pytest.mark.parametrize("other", [{"task": "clutrr"}, {"seed": 43}, {"draw": 2}])
def test_task_seed_and_draw_each_decide_a_random_selection(other):
    assert draw(6) == draw(6)
    assert draw(6) != draw(6, **other)


def test_random_selections_are_even():
    counts = np.zeros(LAYOUT.grid)
    for seed in range(2000):
        for at in draw(5, seed=seed):
            counts[at] += 1
    assert abs(counts / 2000 - 0.25).max() < 0.05


@pytest.mark.parametrize(("k", "silent"), [(1, 0), (3, 0), (4, 1), (6, 3)])
def test_heads_near_zero_are_those_of_the_selection_below_2_percent_of_the_largest(k, silent):
    assert heads_near_zero(np.array([[0.019, 1.0, 0.5], [0.021, 0.0, 0.001]]), k) == silent


def test_heads_are_silent_where_all_of_them_are():
    assert heads_near_zero(np.zeros((2, 3)), 3) == 3


def test_noise_is_warned_of(capsys):
    warn_of_noise(np.array([[0.0, 1.0], [0.5, 0.0]]), 2)
    assert capsys.readouterr().err == ""
    warn_of_noise(np.array([[0.0, 1.0], [0.5, 0.0]]), 3)
    assert capsys.readouterr().err.startswith("warning: 1 of the 3 heads have scales of almost nothing")


@pytest.mark.parametrize("k", [-1, 0, 21])
def test_no_more_heads_can_be_chosen_than_are_ranked(norms, k):
    with pytest.raises(LofitError, match=f"^k: got {k}; expected 1 to 20, the heads that are ranked$"):
        top_heads(norms, k)


def test_scores_of_an_order_rank_it_and_nothing_else():
    order = [(4, 0), (0, 3), (2, 2)]
    scores = scores_of(order, LAYOUT.grid)
    assert top_heads(scores, 3) == order
    assert (scores == -np.inf).sum() == 17


@pytest.mark.parametrize("task", ["mquake", "clutrr", "truthfulqa"])
@pytest.mark.parametrize("seed", [42, 7])
@pytest.mark.parametrize("number", [1, 3])
def test_random_heads_are_those_of_the_formula_that_published_results_used(task, seed, number):
    order = np.random.default_rng([seed, number, *task.encode()]).permutation(LAYOUT.size)
    for k in (1, 6, 20):
        assert draw(k, task=task, seed=seed, draw=number) == [divmod(int(index), 4) for index in order[:k]]


def test_random_heads_of_llama_2_7b_are_still_the_same():
    layout = HeadLayout(32, 32, 128, ("o_proj",) * 32)
    scores = random.rank(Case(layout, task="truthfulqa", seed=42, draw=1), random.Settings(), None)
    assert top_heads(scores, 5) == [(13, 8), (4, 13), (12, 28), (29, 3), (21, 31)]


@pytest.mark.parametrize("k", range(1, 21))
def test_heads_drawn_within_layers_are_as_many_of_each_as_the_norms_choose(norms, k):
    heads = draw_same_layers(norms, k)
    assert len(set(heads)) == k
    assert [layer for layer, _ in heads] == [layer for layer, _ in top_heads(norms, k)]
    assert draw_same_layers(norms, 20)[:k] == heads


@pytest.mark.parametrize("other", [{"task": "clutrr"}, {"seed": 43}, {"draw": 2}])
def test_task_seed_and_draw_each_decide_the_heads_within_layers(norms, other):
    assert draw_same_layers(norms, 12) == draw_same_layers(norms, 12) != draw_same_layers(norms, 12, **other)


def test_heads_within_layers_are_even(norms):
    """Of a layer with c of 4 heads chosen, each head is drawn c times of 4."""
    counts, chosen = np.zeros(LAYOUT.grid), np.zeros(5)
    for layer, _ in top_heads(norms, 8):
        chosen[layer] += 1
    for seed in range(1000):
        for at in draw_same_layers(norms, 8, seed=seed):
            counts[at] += 1
    assert abs(counts / 1000 - chosen[:, None] / 4).max() < 0.06


def test_heads_within_layers_look_at_nothing_but_the_layers_of_the_norms(norms):
    """The heads of a layer may swap their norms: which head is drawn does not change."""
    swapped = norms[:, ::-1]
    assert draw_same_layers(norms, 9) == draw_same_layers(swapped, 9)


def test_the_heads_of_another_task_are_those_of_its_norms():
    scales = np.random.default_rng(1).standard_normal((5, 4, 2))
    scores = from_task.rank(CASE, from_task.Settings(task="mquake"), scales)
    np.testing.assert_allclose(scores, np.sqrt((scales**2).sum(-1)))
    assert from_task.NEEDS == "other_scales" and scale_norm.NEEDS == random_same_layers.NEEDS == "scales"


@pytest.mark.parametrize("task", ["", "no such name!", 3])
def test_another_task_has_to_be_named(task):
    with pytest.raises(LofitError, match=r"^task: got .*; expected "):
        from_task.Settings.of({"task": task})


# ---------------------------------------------------------------------------------------------------------- helpers


def draw(k, *, task="mquake", seed=42, draw=1):
    scores = random.rank(Case(LAYOUT, task=task, seed=seed, draw=draw), random.Settings(), None)
    return top_heads(scores, k)


def draw_same_layers(norms, k, *, task="mquake", seed=42, draw=1):
    case = Case(LAYOUT, task=task, seed=seed, draw=draw)
    # Scales of one number have themselves as norms.
    return top_heads(random_same_layers.rank(case, random_same_layers.Settings(), norms[..., None]), k)
