"""Probes: logistic regressions that tell true answers from false ones by what a head or a layer puts out."""

from dataclasses import dataclass

import numpy as np

from lofit.errors import LofitError

STEPS = 100
"""Newton's method needs about ten; more are a sign that something is wrong."""

TOLERANCE = 1e-8
"""Largest entry of the gradient, per unit of C and example, at which a probe counts as fitted."""


@dataclass(frozen=True)
class Probes:
    """P probes of d features each; one says "true" of x where `weights @ x + bias` is above 0."""

    weights: np.ndarray
    """P x d, float64."""

    biases: np.ndarray
    """P, float64."""

    def accuracy(self, features: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """The share of rows that each probe tells rightly, P numbers.

        Args:
            features: P x N x d.
            labels: N, bool.
        """
        margins = np.matmul(features.astype(np.float64), self.weights[:, :, None])[..., 0] + self.biases[:, None]
        return ((margins > 0) == labels).mean(axis=1)


def fit_probes(features: np.ndarray, labels: np.ndarray, *, c: float = 1.0) -> Probes:
    """The minimum of `0.5 w'w + C sum_n log(1 + exp(-y_n (w'x_n + b)))` for each of P sets of features.

    The bias b is free, y_n is 1 or -1, and features are taken as they are. Newton's method in float64, all probes at
    once; where there are more features than rows, in the space that the rows span, where the minimum lies.

    Args:
        features: P x N x d.
        labels: N, bool.

    Raises:
        LofitError: the labels are all alike, or a probe does not settle.
    """
    if labels.all() or not labels.any():
        kind = "true" if labels.all() else "false"
        raise LofitError(f"labels: got {len(labels)} {kind} answers alone; expected true and false ones")
    x = features.astype(np.float64)
    if x.shape[2] <= x.shape[1]:
        return Probes(*newton(x, labels, c))
    # X = R' Q': w = Q v has the length of v, and X w = R' v.
    q, r = np.linalg.qr(x.transpose(0, 2, 1))
    inside, biases = newton(r.transpose(0, 2, 1), labels, c)
    return Probes(np.matmul(q, inside[:, :, None])[..., 0], biases)


def newton(x: np.ndarray, labels: np.ndarray, c: float) -> tuple[np.ndarray, np.ndarray]:
    """Weights and biases at the minimum, for P x N x d features of float64."""
    probes, rows, size = x.shape
    y = np.where(labels, 1.0, -1.0)
    x = np.concatenate([x, np.ones((probes, rows, 1))], axis=2)
    ridge = np.ones(size + 1)
    ridge[-1] = 0.0
    w = np.zeros((probes, size + 1))

    def value(at: np.ndarray) -> np.ndarray:
        margins = y * np.matmul(x, at[:, :, None])[..., 0]
        return 0.5 * (ridge * at * at).sum(1) + c * np.logaddexp(0.0, -margins).sum(1)

    now = value(w)
    for _ in range(STEPS):
        margins = y * np.matmul(x, w[:, :, None])[..., 0]
        wrong = 0.5 * (1.0 - np.tanh(0.5 * margins))  # the probability of the other label
        gradient = ridge * w - c * np.matmul((y * wrong)[:, None, :], x)[:, 0]
        if abs(gradient).max() <= TOLERANCE * c * rows:
            return w[:, :-1], w[:, -1]
        weighted = x * (c * wrong * (1.0 - wrong))[..., None]
        hessian = np.matmul(x.transpose(0, 2, 1), weighted) + np.diag(ridge)
        # Where all rows are told with certainty, the bias has no curvature left.
        hessian[:, -1, -1] += 1e-12 * c * rows
        step = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        length = np.ones(probes)
        slope = (gradient * step).sum(1)
        for _ in range(40):
            there = value(w - length[:, None] * step)
            # Rounding may hide a fall that is smaller than the value's last digits.
            short = there > now - 1e-4 * length * slope + 1e-12 * abs(now)
            if not short.any():
                break
            length[short] /= 2
        w, now = w - length[:, None] * step, there
    raise LofitError(f"probe: no minimum after {STEPS} steps; expected a smaller C than {c}")
