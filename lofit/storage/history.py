"""The curve of a training stage: one row per step, one draw and fold after the other."""

import csv
from collections.abc import Iterable
from io import StringIO
from pathlib import Path

from lofit.storage.files import write_whole

COLUMNS = ("step", "draw", "fold", "epoch", "loss", "penalty", "lr")


def write_history(file: Path, rows: Iterable[dict]) -> None:
    """Save rows with `COLUMNS` as CSV."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow(row[key] if isinstance(row[key], int) else f"{row[key]:.6g}" for key in COLUMNS)
    write_whole(file, text.getvalue())


def read_history(file: Path) -> list[dict]:
    """What `write_history` wrote."""
    with file.open(newline="") as opened:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(opened)]
