"""The curve of a training stage: one row per step, one draw and fold after the other.

Where training could stop early, the last row of an epoch has `val_loss`, too.
"""

import csv
from collections.abc import Iterable
from io import StringIO
from pathlib import Path

from lofit.storage.files import write_whole

COLUMNS = ("step", "draw", "fold", "epoch", "loss", "penalty", "lr")


def write_history(file: Path, rows: Iterable[dict]) -> None:
    """Save rows with `COLUMNS` as CSV, and with a column `val_loss` where a row has one."""
    known = list(rows)
    columns = (*COLUMNS, "val_loss") if any("val_loss" in row for row in known) else COLUMNS
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in known:
        values = (row.get(key, "") for key in columns)
        writer.writerow(f"{value:.6g}" if isinstance(value, float) else value for value in values)
    write_whole(file, text.getvalue())


def read_history(file: Path) -> list[dict]:
    """What `write_history` wrote."""
    with file.open(newline="") as opened:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(opened)]
