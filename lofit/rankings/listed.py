"""Heads listed in a file, best first, such as the `.npy` files that the paper's authors publish."""

import csv
from pathlib import Path

import numpy as np

from lofit.errors import LofitError
from lofit.models.layout import Head
from lofit.rankings import scores_of
from lofit.settings import Settings as BaseSettings
from lofit.settings import Text
from lofit.training.case import Case

NEEDS = None


class Settings(BaseSettings):
    file: Text
    """`.npy` of (layer, head) pairs, or CSV with those columns."""


def rank(case: Case, settings: Settings, scales: None) -> np.ndarray:
    """The heads of the file in its order; no other head can be chosen.

    Raises:
        LofitError: see `read_head_list`.
    """
    return scores_of(read_head_list(Path(settings.file), case.layout.grid), case.layout.grid)


def read_head_list(file: Path, layout_size: tuple[int, int]) -> list[Head]:
    """A ranking made elsewhere, best head first: a `.npy` of K x 2 whole numbers, or a `.csv` of layer and head.

    The former is what the published code saves as `top_heads/*.npy`.

    Args:
        layout_size: layers and heads per layer of the model.

    Raises:
        LofitError: the file is missing or holds something else, or a head is not in the model or comes twice.
    """
    if file.suffix not in (".npy", ".csv"):
        raise LofitError(f"{file}: got {file.suffix or 'no ending'}; expected .npy or .csv")
    if not file.is_file():
        raise LofitError(f"{file}: no such file; expected a list of heads, .npy or .csv")
    pairs = _read_npy(file) if file.suffix == ".npy" else _read_csv(file)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype.kind not in "iuf":
        raise LofitError(f"{file}: got {pairs.dtype} of shape {pairs.shape}; expected whole numbers of shape (K, 2)")
    whole = (pairs == np.floor(pairs)).all(axis=1)
    inside = ((pairs >= 0) & (pairs < layout_size)).all(axis=1)
    if not (whole & inside).all():
        layer, head = pairs[np.argmin(whole & inside)].tolist()
        raise LofitError(
            f"{file}: got head ({layer}, {head}); expected whole numbers, layers 0 to {layout_size[0] - 1} and heads "
            f"0 to {layout_size[1] - 1}, as in the model"
        )
    heads = [(int(layer), int(head)) for layer, head in pairs]
    if twice := next((head for row, head in enumerate(heads) if head in heads[:row]), None):
        raise LofitError(f"{file}: got head {twice} twice; expected each head once")
    return heads


def _read_npy(file: Path) -> np.ndarray:
    try:
        with file.open("rb") as opened:
            # Not np.load: it takes zip archives too.
            return np.lib.format.read_array(opened, allow_pickle=False)
    except ValueError as error:
        raise LofitError(f"{file}: not a whole array of numbers ({str(error).splitlines()[0]})") from None


def _read_csv(file: Path) -> np.ndarray:
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            reader = csv.reader(opened, skipinitialspace=True)
            columns = next(reader, [])
            # A table with more columns, such as that of the norms, is seldom in the order of a ranking.
            if sorted(columns) != ["head", "layer"]:
                raise LofitError(f"{file}: got columns {', '.join(columns)}; expected layer, head; best head first")
            rows = []
            for row in filter(None, reader):
                parts = [part.strip().removesuffix(".0") for part in row]
                if len(parts) != 2 or not all(part.isdecimal() for part in parts):
                    raise LofitError(f"{file}: line {reader.line_num}: got {','.join(row)}; expected two whole numbers")
                rows.append([int(parts[columns.index(name)]) for name in ("layer", "head")])
    except UnicodeDecodeError as error:
        raise LofitError(f"{file}: byte {error.start} is not UTF-8") from None
    return np.array(rows).reshape(-1, 2)
