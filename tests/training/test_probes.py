"""Probes against plain gradient descent, and against scikit-learn where it is installed."""

import numpy as np
import pytest

from lofit import LofitError
from lofit.training.probes import fit_probes


def data(probes=3, rows=60, size=5, *, seed=0, scale=1.0, shift=1.0):
    """Overlapping clouds, one further apart in each set of features."""
    generator = np.random.default_rng(seed)
    labels = generator.random(rows) < 0.4
    features = generator.standard_normal((probes, rows, size))
    features[:, labels, 0] += shift * np.arange(1, probes + 1)[:, None]
    return (scale * features).astype(np.float32), labels


def objective(x, y, w, b, c):
    return 0.5 * w @ w + c * sum(np.log1p(np.exp(-sign * (row @ w + b))) for row, sign in zip(x, y, strict=True))


def descend(x, labels, c):
    """Gradient descent with a small step, until nothing moves."""
    x, y = x.astype(np.float64), np.where(labels, 1.0, -1.0)
    w, b = np.zeros(x.shape[1]), 0.0
    rate = 1 / (1 + c * 0.25 * (np.square(x).sum() + len(x)))
    for _ in range(200_000):
        pull = y / (1 + np.exp(y * (x @ w + b)))
        down, up = w - c * pull @ x, -c * pull.sum()
        if max(abs(down).max(), abs(up)) < 1e-9:
            break
        w, b = w - rate * down, b - rate * up
    return w, b


@pytest.mark.parametrize("c", [0.05, 1.0, 10.0])
def test_a_probe_is_the_minimum_that_gradient_descent_finds(c):
    features, labels = data()
    probes = fit_probes(features, labels, c=c)
    for head in range(len(features)):
        w, b = descend(features[head], labels, c)
        np.testing.assert_allclose(probes.weights[head], w, atol=1e-6)
        np.testing.assert_allclose(probes.biases[head], b, atol=1e-6)


@pytest.mark.parametrize(("rows", "size"), [(60, 5), (20, 40), (30, 30), (4, 50)])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
def test_no_small_step_leads_lower(rows, size, scale):
    features, labels = data(2, rows, size, scale=scale)
    assert 0 < labels.sum() < rows
    probes = fit_probes(features, labels)
    x, y = features[1].astype(np.float64), np.where(labels, 1.0, -1.0)
    w, b = probes.weights[1], probes.biases[1]
    # The gradient by hand, in all features, though fewer rows than features are fitted among themselves.
    pull = y / (1 + np.exp(y * (x @ w + b)))
    assert abs(w - pull @ x).max() < 1e-6 * max(1, scale) * rows
    assert abs(pull.sum()) < 1e-6 * rows
    least = objective(x, y, w, b, 1.0)
    generator = np.random.default_rng(1)
    for _ in range(20):
        direction = 1e-2 * generator.standard_normal(size) / scale
        assert objective(x, y, w + direction, b + 1e-3, 1.0) > least


@pytest.mark.parametrize(("rows", "size", "c"), [(300, 16, 1.0), (40, 60, 0.5)])
def test_a_probe_is_that_of_scikit_learn(rows, size, c):
    linear = pytest.importorskip("sklearn.linear_model")
    features, labels = data(2, rows, size)
    probes = fit_probes(features, labels, c=c)
    for head in range(2):
        theirs = linear.LogisticRegression(C=c, tol=1e-10, max_iter=10_000).fit(features[head], labels)
        np.testing.assert_allclose(probes.weights[head], theirs.coef_[0], atol=1e-3)
        np.testing.assert_allclose(probes.biases[head], theirs.intercept_[0], atol=1e-3)
        assert probes.accuracy(features, labels)[head] == theirs.score(features[head], labels)


def test_each_probe_is_what_it_is_alone():
    features, labels = data()
    together = fit_probes(features, labels)
    for head in range(3):
        alone = fit_probes(features[head : head + 1], labels)
        np.testing.assert_allclose(alone.weights[0], together.weights[head], atol=1e-7)


def test_accuracy_is_the_share_of_rows_on_their_side():
    features, labels = data()
    probes = fit_probes(features, labels)
    for head, accuracy in enumerate(probes.accuracy(features, labels)):
        margins = [row @ probes.weights[head] + probes.biases[head] for row in features[head].astype(np.float64)]
        right = [(margin > 0) == label for margin, label in zip(margins, labels, strict=True)]
        assert accuracy == pytest.approx(sum(right) / len(right), abs=0)


@pytest.mark.parametrize("all_true", [True, False])
def test_answers_of_one_sort_are_refused(all_true):
    with pytest.raises(LofitError, match=rf"^labels: got 60 {str(all_true).lower()} answers alone; expected"):
        fit_probes(data()[0], np.full(60, all_true))


def test_a_head_that_says_nothing_does_not_disturb_the_others():
    features, labels = data()
    dead = np.stack([features[0], np.zeros_like(features[0]), np.ones_like(features[0])])
    probes = fit_probes(dead, labels)
    np.testing.assert_allclose(probes.weights[0], fit_probes(features[:1], labels).weights[0], atol=1e-7)
    assert not probes.weights[1].any()
    # What it can still know is how many answers are true.
    share = labels.mean()
    assert probes.biases[1] == pytest.approx(np.log(share / (1 - share)), abs=1e-6)
    assert probes.accuracy(dead, labels)[1] == pytest.approx(max(share, 1 - share))
