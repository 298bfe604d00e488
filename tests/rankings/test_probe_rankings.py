"""Rankings by probes, on made-up activations in which some heads know the answer."""

import numpy as np
import pytest

from lofit import HeadLayout, LofitError, Record, fit, head_layout
from lofit.rankings import layer_probe, probe, top_heads
from lofit.training.activations import Activations, collect
from lofit.training.case import Case

LAYERS, HEADS, SIZE = 3, 4, 5
CASE = Case(HeadLayout(LAYERS, HEADS, SIZE, ("o_proj",) * LAYERS), seed=3)


def made_up(knowing, *, questions=60, val=20, seed=0, noise=0.3):
    """Two true and two false answers to each question; `knowing` heads tell them apart, by a shift of their own."""
    generator = np.random.default_rng(seed)
    labels = np.tile([True, True, False, False], questions)
    heads = noise * generator.standard_normal((len(labels), LAYERS, HEADS, SIZE))
    for place, (head, strength) in enumerate(knowing.items()):
        heads[(labels, *head, place % SIZE)] += strength
    order = np.repeat(np.arange(questions), 4)
    heads = heads.astype(np.float16)
    return Activations(heads, heads[:, :, 0], labels, order, order >= questions - val, heads[::4])


def test_heads_that_know_come_first():
    given = made_up({(1, 2): 2.0, (0, 3): 0.6, (2, 0): 0.3})
    scores = probe.rank(CASE, probe.Settings(), given)
    assert scores.shape == (LAYERS, HEADS)
    assert top_heads(scores, 3) == [(1, 2), (0, 3), (2, 0)]
    assert scores[1, 2] == 1.0


def test_a_score_is_the_accuracy_on_validation_of_a_probe_fitted_on_training():
    linear = pytest.importorskip("sklearn.linear_model")
    given = made_up({(1, 2): 0.4, (0, 3): 0.2})
    scores = probe.rank(CASE, probe.Settings(c=0.3), given)
    train, val = ~given.in_val, given.in_val
    for head in np.ndindex(LAYERS, HEADS):
        z = given.heads[:, head[0], head[1]].astype(np.float64)
        theirs = linear.LogisticRegression(C=0.3, tol=1e-10, max_iter=10_000).fit(z[train], given.labels[train])
        assert scores[head] == pytest.approx(theirs.score(z[val], given.labels[val]), abs=1e-12)


def test_training_answers_alone_decide_a_probe():
    given = made_up({(1, 2): 2.0})
    fooled = Activations(**{**vars(given), "labels": np.where(given.in_val, ~given.labels, given.labels)})
    assert probe.rank(CASE, probe.Settings(), fooled)[1, 2] == 0.0


@pytest.mark.parametrize("page", [probe, layer_probe])
def test_without_validation_there_is_no_accuracy(page):
    with pytest.raises(LofitError, match=r"^val: got no validation records; expected some"):
        page.rank(CASE, page.Settings(), made_up({}, val=0))


def test_layers_are_filled_whole_and_best_first():
    # No head of layer 2 is as good as (0, 1), but together they are better.
    given = made_up({(0, 1): 0.7, **{(2, head): 0.6 for head in range(HEADS)}})
    scores = layer_probe.rank(CASE, layer_probe.Settings(), given)
    assert (scores == scores[:, :1]).all()
    assert top_heads(scores, 6) == [(2, 0), (2, 1), (2, 2), (2, 3), (0, 0), (0, 1)]


def test_a_layer_is_scored_on_the_best_answer_and_one_false_one():
    linear = pytest.importorskip("sklearn.linear_model")
    given = made_up({(0, 1): 0.5, (1, 0): 0.3})
    pairs = layer_probe.best_against_one(given, seed=3)
    assert pairs[::2].tolist() == list(range(0, 240, 4))
    assert set((pairs[1::2] - pairs[::2]).tolist()) == {2, 3}
    assert pairs.tolist() == layer_probe.best_against_one(given, seed=3).tolist()
    assert pairs.tolist() != layer_probe.best_against_one(given, seed=4).tolist()
    in_val, labels = given.in_val[pairs], given.labels[pairs]
    scores = layer_probe.rank(CASE, layer_probe.Settings(), given)
    for layer in range(LAYERS):
        z = given.heads[pairs, layer].reshape(len(pairs), -1).astype(np.float64)
        theirs = linear.LogisticRegression(tol=1e-10, max_iter=10_000).fit(z[~in_val], labels[~in_val])
        assert scores[layer, 0] == pytest.approx(theirs.score(z[in_val], labels[in_val]), abs=1e-12)


@pytest.mark.parametrize("ranking", ["probe", "layer_probe"])
def test_a_fit_ranks_by_a_probe(model, tokenizer, ranking):
    records = [Record(str(n), f"Q: {word}? A:", " Yes", " No") for n, word in enumerate(("cat", "dog", "mat", "Roy"))]
    adapter = fit(model, tokenizer, records[:2], ranking=ranking, k=4, val=records[2:], epochs=1)
    page = {"probe": probe, "layer_probe": layer_probe}[ranking]
    layout = head_layout(model)
    given = collect(model, tokenizer, layout, records[:2], records[2:], seed=42)
    expected = top_heads(page.rank(Case(layout), page.Settings(), given), 4)
    assert adapter.heads == sorted(expected)
