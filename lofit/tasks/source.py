"""Reading data files as people have them, and saying in one line what is wrong with one."""

import codecs
import csv
import gzip
import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from io import StringIO
from numbers import Integral
from pathlib import Path
from typing import Any

from lofit.errors import LofitError
from lofit.storage.files import read_json

BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
"""Marks that some programs write first, and the encoding that each stands for."""
ORIGIN = "origin.json"
"""Beside fetched files: what the user calls each of them."""
DELIMITERS = ",;\t"


@dataclass(frozen=True)
class Place:
    """Where a row stands."""

    file: str
    """As the user wrote it."""

    number: int

    unit: str = "line"

    def __str__(self) -> str:
        return f"{self.file}, {self.unit} {self.number}"

    @property
    def id(self) -> str:
        """What the row is called where it has no id of its own."""
        return f"{Path(self.file).name}:{self.number}"


Rows = list[tuple[Place, dict[str, Any]]]


def name_of(file: Path) -> str:
    """What the user calls a file: fetched data says where each of its files comes from."""
    origin = file.with_name(ORIGIN)
    return (read_json(origin) if origin.exists() else {}).get(file.name, str(file))


def read_text(file: Path) -> str:
    """The content of a UTF-8 file, or of one in UTF-16 with its mark; unpacked where its ending is .gz.

    Raises:
        LofitError: the file is missing or empty, or is not UTF-8.
    """
    name = name_of(file)
    if not file.is_file():
        raise LofitError(f"{name}: no such file")
    content = file.read_bytes()
    if file.suffix.lower() == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise LofitError(f"{name}: cut short or not gzip ({error})") from None
    encoding = next((known for mark, known in BOMS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise LofitError(f"{name}, line {line}: byte 0x{content[error.start]:02x} is not {encoding.upper()}") from None
    if not text.strip():
        raise LofitError(f"{name}: empty; expected at least one example")
    return text


def read_csv_rows(file: Path, *, columns: Iterable[str] = (), delimiter: str = ",") -> Rows:
    """Rows of a CSV file with a header, every cell the text that it is.

    Raises:
        LofitError: as `read_text`; or a column is missing, a row is cut short, or there is no row.
    """
    name = name_of(file)
    reader = csv.reader(StringIO(read_text(file), newline=""), strict=True, delimiter=delimiter)
    rows: Rows = []
    header: list[str] = []
    line = 1
    try:
        for cells in reader:
            # A quoted cell may span lines; the row's place is where it begins.
            place, line = Place(name, line), reader.line_num + 1
            if not cells:
                continue
            if not header:
                header = cells
                check_header(header, columns, place)
            elif len(cells) != len(header):
                raise LofitError(f"{place}: got {len(cells)} columns; expected {len(header)}, as in the header")
            else:
                rows.append((place, dict(zip(header, cells, strict=True))))
    except csv.Error as error:
        raise LofitError(f"{name}, line {line}: cut short or not CSV ({error})") from None
    if not rows:
        raise LofitError(f"{name}: a header without rows; expected at least one example")
    return rows


def delimiter_of(text: str) -> str:
    """What separates the cells of a table: the comma, or what cuts its header into more columns."""
    header = text.lstrip("\r\n").splitlines()[0]
    return max(DELIMITERS, key=lambda delimiter: len(next(csv.reader([header], delimiter=delimiter))))


def check_header(header: list[str], columns: Iterable[str], place: Place) -> None:
    """Refuse a header that lacks one of `columns` or holds a name twice."""
    if missing := [name for name in columns if name not in header]:
        raise LofitError(f"{place}: no column {', '.join(missing)}; got {', '.join(header)}")
    if twice := [name for name in header if header.count(name) > 1]:
        raise LofitError(f"{place}: column {twice[0]!r} stands twice; expected each name once")


def read_json_items(file: Path) -> Rows:
    """Objects of a file that holds one JSON list.

    Raises:
        LofitError: as `read_text`; or the file is not a JSON list of objects.
    """
    name = name_of(file)
    items = parse_json(read_text(file), name)
    if not isinstance(items, list) or not items or not all(isinstance(item, dict) for item in items):
        block = items if isinstance(items, dict) else {}
        inner = [
            key for key, value in block.items() if isinstance(value, list) and value and isinstance(value[0], dict)
        ]
        hint = f"; its field {inner[0]!r} holds a list: save that alone" if inner else ""
        raise LofitError(f"{name}: not a JSON list of objects{hint}")
    return [(Place(name, number, "item"), item) for number, item in enumerate(items, 1)]


def read_json_lines(file: Path) -> Rows:
    """Objects of a JSONL file.

    Raises:
        LofitError: as `read_text`; or a line is not a JSON object.
    """
    name = name_of(file)
    rows: Rows = []
    # Not splitlines(): a text may hold U+2028, which JSON leaves as it is.
    for number, line in enumerate(read_text(file).split("\n"), 1):
        if line.strip():
            place = Place(name, number)
            row = parse_json(line, place)
            if not isinstance(row, dict):
                raise LofitError(f"{place}: got {line[:40]!r}; expected a JSON object (a list of them goes into .json)")
            rows.append((place, row))
    return rows


def parse_json(text: str, place: Place | str) -> Any:
    """JSON as plain values: NaN, which tables write for an empty cell, is null, and 1.10 keeps its digits.

    Raises:
        LofitError: it is no JSON, an object has a key twice, or a number is too large to read.
    """
    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=constant, parse_float=Decimal)
    except json.JSONDecodeError as error:
        where = f"{place}, line {error.lineno}" if "\n" in text else place
        raise LofitError(f"{where}: cut short or not JSON ({error.msg} at column {error.colno})") from None
    except (ValueError, RecursionError) as error:
        raise LofitError(f"{place}: {str(error).split(';')[0]}; expected plain JSON") from None


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of which every key stands once."""
    block = dict(pairs)
    if len(block) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} stands twice")
    return block


def constant(name: str) -> None:
    """What the words stand for that Python writes and JSON lacks."""
    if name != "NaN":
        raise ValueError(f"got the number {name}")


KINDS = {str: "text", int: "whole number", list: "list", dict: "block"}


def field(row: dict, place: Place | str, path: str, kind: type = str) -> Any:
    """The value at a dotted `path` of `row`, such as `requested_rewrite.0.target_new.str`.

    Raises:
        LofitError: it is missing or not a `kind`.
    """
    value: Any = row
    for key in path.split("."):
        try:
            value = value[int(key)] if isinstance(value, list) else value[key]
        except (KeyError, IndexError, TypeError, ValueError):
            raise LofitError(f"{place}: no field {path!r}; got {', '.join(map(str, row))}") from None
    if not isinstance(value, kind) or (isinstance(value, str) and not value.strip()):
        raise LofitError(f"{place}: field {path!r} is {value!r}; expected a {KINDS[kind]} that is not blank")
    return value


def printed(value: Any) -> str | None:
    """A text, number or truth value as a text, as JSON writes it; None for anything else."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Integral):
        return str(int(value))
    return str(value) if isinstance(value, str | float | Decimal) else None
