"""Small tables of a run, by fold: norms of scales, chosen heads, scores."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from lofit.storage.files import write_whole

Part = tuple[int, int]
"""A part of a row of the results: draw of its heads, from 1, and fold of its data, from 0."""


def write_norms(file: Path, folds: Mapping[int, np.ndarray]) -> None:
    """Save the layers x heads norms of each fold as rows of a CSV file: fold, layer, head, norm."""
    rows = (
        f"{fold},{layer},{head},{norm:.9g}\n"
        for fold, norms in folds.items()
        for (layer, head), norm in np.ndenumerate(norms)
    )
    write_whole(file, "fold,layer,head,norm\n" + "".join(rows))


def read_norms(file: Path) -> dict[int, np.ndarray]:
    """What `write_norms` wrote: layers x heads, by fold."""
    rows = np.loadtxt(file, delimiter=",", skiprows=1, ndmin=2)
    folds = {}
    for fold in np.unique(rows[:, 0]):
        layer, head, norm = rows[rows[:, 0] == fold, 1:].T
        norms = np.zeros((int(layer.max()) + 1, int(head.max()) + 1))
        norms[layer.astype(int), head.astype(int)] = norm
        folds[int(fold)] = norms
    return folds


def write_ranking(file: Path, parts: Mapping[Part, Sequence[tuple[int, int]]]) -> None:
    """Save heads, best first, as rows of a CSV file: draw, fold, layer, head."""
    rows = (f"{draw},{fold},{layer},{head}\n" for (draw, fold), heads in parts.items() for layer, head in heads)
    write_whole(file, "draw,fold,layer,head\n" + "".join(rows))


def read_ranking(file: Path) -> dict[Part, list[tuple[int, int]]]:
    """What `write_ranking` or `write_heads` wrote; a part without heads is left out."""
    parts: dict[Part, list[tuple[int, int]]] = {}
    with file.open(newline="") as opened:
        for row in csv.DictReader(opened):
            parts.setdefault((int(row["draw"]), int(row["fold"])), []).append((int(row["layer"]), int(row["head"])))
    return parts


def write_heads(file: Path, parts: Mapping[Part, Iterable[tuple[int, int]]]) -> None:
    """Save chosen heads in the model's order: another ranking that leads to the same heads changes no byte."""
    write_ranking(file, {part: sorted(heads) for part, heads in parts.items()})


def write_scores(file: Path, parts: Mapping[Part, Mapping[str, Sequence[float]]]) -> None:
    """Save score tables as CSV: draw, fold, then a column per metric; a row per record."""
    names = list(next(iter(parts.values())))
    rows = (
        ",".join([str(draw), str(fold), *(f"{value:.6g}" for value in row)])
        for (draw, fold), scores in parts.items()
        for row in zip(*scores.values(), strict=True)
    )
    write_whole(file, "\n".join([",".join(["draw", "fold", *names]), *rows]) + "\n")


def read_scores(file: Path) -> dict[Part, dict[str, np.ndarray]]:
    """What `write_scores` wrote: one number per record, by metric."""
    with file.open(newline="") as opened:
        reader = csv.DictReader(opened)
        names = [name for name in reader.fieldnames or () if name not in ("draw", "fold")]
        rows = list(reader)
    parts: dict[Part, list[dict]] = {}
    for row in rows:
        parts.setdefault((int(row["draw"]), int(row["fold"])), []).append(row)
    return {
        part: {name: np.array([float(row[name]) for row in members]) for name in names}
        for part, members in parts.items()
    }
