"""Rankings of heads."""

import numpy as np
import pytest

from lofit.selection import (
    random_heads,
    read_heads,
    read_norms,
    scale_norms,
    silent_heads,
    top_heads,
    write_heads,
    write_norms,
)


@pytest.fixture
def norms():
    return np.random.default_rng(0).random((5, 4))


def places(heads):
    return [(ranked.layer, ranked.head) for ranked in heads]


def test_a_norm_is_the_root_of_the_sum_of_squares():
    scales = np.array([[[3.0, -4.0], [0.0, 0.0]], [[1.0, 1.0], [-2.0, 0.0]]])
    np.testing.assert_allclose(scale_norms(scales), [[5.0, 0.0], [2**0.5, 2.0]])


def test_the_largest_norms_come_first(norms):
    ranked = sorted((-norms[at], at) for at in np.ndindex(norms.shape))[:7]
    heads = top_heads(norms, 7)
    assert places(heads) == [at for _, at in ranked]
    assert [head.score for head in heads] == [-score for score, _ in ranked]


def test_ties_are_broken_by_layer_and_head():
    norms = np.zeros((3, 4))
    norms[1, 2] = 1
    assert places(top_heads(norms, 4)) == [(1, 2), (0, 0), (0, 1), (0, 2)]


def test_a_selection_grows_from_the_smaller_ones(norms):
    everything = places(top_heads(norms, 20))
    assert sorted(everything) == list(np.ndindex(norms.shape))
    assert all(places(top_heads(norms, k)) == everything[:k] for k in range(1, 20))


@pytest.mark.parametrize("seed", range(5))
def test_renumbering_the_heads_renumbers_the_selection(norms, seed):
    order = np.random.default_rng(seed).permutation(norms.size)
    renumbered = norms.flatten()[order].reshape(norms.shape)
    old = [int(order[layer * 4 + head]) for layer, head in places(top_heads(renumbered, 6))]
    assert old == [layer * 4 + head for layer, head in places(top_heads(norms, 6))]


def test_a_scale_of_all_norms_does_not_change_the_selection(norms):
    assert places(top_heads(norms * 1e-6, 6)) == places(top_heads(norms.astype(np.float32), 6))


def test_a_random_selection_grows_from_the_smaller_ones(norms):
    everything = places(draw(norms, 20))
    assert sorted(everything) == list(np.ndindex(norms.shape))
    assert all(places(draw(norms, k)) == everything[:k] for k in range(1, 20))
    assert all(head.score == norms[head.layer, head.head] for head in draw(norms, 20))


@pytest.mark.parametrize("other", [{"task": "clutrr"}, {"seed": 43}, {"draw": 2}])
def test_task_seed_and_draw_each_decide_a_random_selection(norms, other):
    assert places(draw(norms, 6)) == places(draw(norms, 6))
    assert places(draw(norms, 6)) != places(draw(norms, 6, **other))


def test_a_random_selection_does_not_look_at_the_norms(norms):
    assert places(draw(norms, 6)) == places(draw(-norms, 6))


def test_random_selections_are_even(norms):
    counts = np.zeros(norms.shape)
    for seed in range(2000):
        for at in places(draw(norms, 5, seed=seed)):
            counts[at] += 1
    assert abs(counts / 2000 - 0.25).max() < 0.05


@pytest.mark.parametrize(("k", "silent"), [(1, 0), (3, 0), (4, 1), (6, 3)])
def test_silent_heads_are_those_of_the_selection_below_2_percent_of_the_largest(k, silent):
    assert silent_heads(np.array([[0.019, 1.0, 0.5], [0.021, 0.0, 0.001]]), k) == silent


def test_heads_are_silent_where_all_of_them_are():
    assert silent_heads(np.zeros((2, 3)), 3) == 3


def test_norms_survive_their_file(tmp_path, norms):
    write_norms(tmp_path / "norms.csv", norms)
    np.testing.assert_allclose(read_norms(tmp_path / "norms.csv"), norms, atol=1e-6)
    assert (tmp_path / "norms.csv").read_text().startswith(f"layer,head,norm\n0,0,{norms[0, 0]:.6f}\n0,1,")


def test_a_single_norm_survives_its_file(tmp_path):
    write_norms(tmp_path / "norms.csv", np.array([[0.5]]))
    assert read_norms(tmp_path / "norms.csv").tolist() == [[0.5]]


@pytest.mark.parametrize("heads", [[], [(3, 1), (0, 7)]])
def test_heads_survive_their_file_in_their_order(tmp_path, heads):
    write_heads(tmp_path / "heads.csv", heads)
    assert read_heads(tmp_path / "heads.csv") == heads


# ---------------------------------------------------------------------------------------------------------- helpers


def draw(norms, k, *, task="mquake", seed=42, draw=1):
    return random_heads(norms, k, task=task, seed=seed, draw=draw)
