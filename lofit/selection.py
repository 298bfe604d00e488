"""Which heads to tune: rankings of the heads of a model."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lofit.files import write_whole


@dataclass(frozen=True)
class RankedHead:
    """A head and what it was ranked by."""

    layer: int

    head: int

    score: float


def scale_norms(scales: np.ndarray) -> np.ndarray:
    """L2 norm of each head's scaling vector (LoFiT section 3): layers x heads x head_dim to layers x heads."""
    return np.linalg.norm(scales, axis=-1)


def top_heads(norms: np.ndarray, k: int) -> list[RankedHead]:
    """The `k` heads of largest norm, largest first, ties by (layer, head)."""
    order = np.argsort(-norms, axis=None, kind="stable")[:k]
    return [_ranked(norms, index) for index in order]


def random_heads(norms: np.ndarray, k: int, *, task: str, seed: int, draw: int) -> list[RankedHead]:
    """`k` heads drawn evenly, the control that shows what ranking is worth.

    The same task, seed and draw give the same order of all heads, so a larger `k` only adds to a smaller one.
    """
    order = np.random.default_rng([seed, draw, *task.encode()]).permutation(norms.size)[:k]
    return [_ranked(norms, index) for index in order]


def silent_heads(norms: np.ndarray, k: int) -> int:
    """How many of the top `k` heads the L1 penalty has pushed to (almost) nothing: norm below 2 % of the largest.

    Such heads are ranked by noise: the penalty is too strong for this `k`.
    """
    return int((np.sort(norms, axis=None)[::-1][:k] <= 0.02 * norms.max()).sum())


def _ranked(norms: np.ndarray, index: int) -> RankedHead:
    layer, head = np.unravel_index(index, norms.shape)
    return RankedHead(int(layer), int(head), float(norms[layer, head]))


def write_norms(file: Path, norms: np.ndarray) -> None:
    """Save layers x heads norms as rows of a CSV file: layer, head, norm."""
    rows = (f"{layer},{head},{norm:.6f}\n" for (layer, head), norm in np.ndenumerate(norms))
    write_whole(file, "layer,head,norm\n" + "".join(rows))


def read_norms(file: Path) -> np.ndarray:
    """What `write_norms` wrote, layers x heads."""
    rows = np.loadtxt(file, delimiter=",", skiprows=1, ndmin=2)
    norms = np.zeros(rows[:, :2].max(axis=0).astype(int) + 1)
    norms[rows[:, 0].astype(int), rows[:, 1].astype(int)] = rows[:, 2]
    return norms


def write_heads(file: Path, heads: Sequence[tuple[int, int]]) -> None:
    """Save heads as rows of a CSV file: layer, head."""
    write_whole(file, "layer,head\n" + "".join(f"{layer},{head}\n" for layer, head in heads))


def read_heads(file: Path) -> list[tuple[int, int]]:
    """What `write_heads` wrote."""
    with file.open(newline="") as opened:
        return [(int(row["layer"]), int(row["head"])) for row in csv.DictReader(opened)]
