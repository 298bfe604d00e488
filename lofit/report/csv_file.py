"""CSV files of results."""

import csv
from collections.abc import Iterable
from io import StringIO
from pathlib import Path
from typing import Any

from lofit.storage.files import write_whole


def write_csv(file: Path, rows: Iterable[Iterable[Any]]) -> None:
    """Write rows of cells, the header first; None is an empty cell."""
    text = StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_whole(file, text.getvalue())
