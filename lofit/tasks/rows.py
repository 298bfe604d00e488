"""The rows of a user's file, whatever its format: JSON lines, a JSON list, a table."""

from collections.abc import Mapping, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from lofit.errors import LofitError
from lofit.extras import extra
from lofit.tasks.source import (
    ORIGIN,
    Place,
    Rows,
    delimiter_of,
    name_of,
    read_csv_rows,
    read_json_items,
    read_json_lines,
    read_text,
)

EXTENSIONS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
SEPARATED = (".csv", ".tsv")


def extension_of(file: Path) -> str | None:
    """One of EXTENSIONS, with .gz behind it where the file is packed; None for any other."""
    name = file.name.lower()
    packed = ".gz" if name.endswith(".gz") else ""
    ending = Path(name.removesuffix(".gz")).suffix
    return f"{ending}{packed}" if ending in EXTENSIONS and not (ending == ".parquet" and packed) else None


def files_in(folder: Path) -> dict[str, Path]:
    """The data files of a folder by their names without ending."""
    found = ((file, extension_of(file)) for file in sorted(folder.iterdir()) if file.name != ORIGIN)
    return {file.name.removesuffix(extension): file for file, extension in found if extension}


def read_rows(file: Path) -> Rows:
    """All rows of a file in one of the EXTENSIONS, in their order.

    Raises:
        LofitError: the file is missing or faulty.
    """
    match (extension_of(file) or "").removesuffix(".gz"):
        case ".jsonl":
            return read_json_lines(file)
        case ".json":
            text = read_text(file)
            # Data frames and `datasets` write JSON lines under this ending, too.
            listed = text.lstrip().startswith("[") or not is_lines(text)
            return read_json_items(file) if listed else read_json_lines(file)
        case ".csv" | ".tsv":
            return read_csv_rows(file, delimiter=delimiter_of(read_text(file)))
        case ".parquet":
            return read_parquet(file)
    raise LofitError(f"{name_of(file)}: got another ending; expected {', '.join(EXTENSIONS)}")


def is_lines(text: str) -> bool:
    """Whether the first line of JSON is an object by itself, and others follow it."""
    first, _, rest = text.strip().partition("\n")
    return first.rstrip().endswith("}") and rest.lstrip().startswith("{")


def read_parquet(file: Path) -> Rows:
    """The rows of a Parquet file."""
    name = name_of(file)
    with extra("pipeline", "Parquet files need"):
        import pyarrow
        from pyarrow import parquet

    try:
        columns = parquet.read_table(file).to_pydict()
    except (pyarrow.ArrowException, OSError) as error:
        raise LofitError(f"{name}: cut short or not Parquet ({' '.join(str(error).split())})") from None
    rows = rows_of_columns(columns, name)
    if not rows:
        raise LofitError(f"{name}: no rows; expected at least one example")
    return [(Place(name, number, "row"), row) for number, row in enumerate(rows, 1)]


def rows_of_columns(columns: Mapping[str, Sequence[Any]], name: str) -> list[dict[str, Any]]:
    """The rows of a table, their cells as JSON would hold them.

    Raises:
        LofitError: JSON has nothing like a cell.
    """
    cells = {column: plain_column(column, values, name) for column, values in columns.items()}
    return [dict(zip(cells, row, strict=True)) for row in zip(*cells.values(), strict=True)]


def plain_column(column: str, values: Sequence[Any], name: str) -> list[Any]:
    """A column as JSON would hold it.

    Where a cell is empty, data frames turn a column of whole numbers into one of floats: such a column is made whole
    again.
    """
    cells = [plain(value, Place(name, number, "row"), column) for number, value in enumerate(values, 1)]
    floats = [cell for cell in cells if isinstance(cell, float)]
    if floats and all(cell.is_integer() for cell in floats):
        return [int(cell) if isinstance(cell, float) else cell for cell in cells]
    return cells


def plain(value: Any, place: Place, column: str) -> Any:
    """A cell as JSON would hold it: dates become text, NaN becomes null.

    Raises:
        LofitError: JSON has nothing like it.
    """
    if isinstance(value, float) and value != value:
        return None
    if isinstance(value, dict):
        return {key: plain(item, place, column) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item, place, column) for item in value]
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return str(value)
    if value is None or isinstance(value, str | bool | int | float | Decimal):
        return value
    raise LofitError(
        f"{place}: column {column!r}: got a {type(value).__name__}; expected texts, numbers and lists of them"
    )
