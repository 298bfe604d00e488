"""Reading published data files, and saying in one line what is wrong with one."""

import csv
import json
from collections.abc import Iterable
from io import StringIO
from pathlib import Path
from typing import Any

from lofit.errors import LofitError


def read_text(file: Path) -> str:
    """The content of a UTF-8 file.

    Raises:
        LofitError: the file is missing or empty, begins with a byte-order mark or is not UTF-8.
    """
    if not file.is_file():
        raise LofitError(f"{file}: no such file")
    content = file.read_bytes()
    if content.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise LofitError(f"{file}, line 1: begins with a byte-order mark; expected UTF-8 without one")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise LofitError(f"{file}, line {line}: byte 0x{content[error.start]:02x} is not UTF-8") from None
    if not text.strip():
        raise LofitError(f"{file}: empty; expected at least one example")
    return text


def read_csv_rows(file: Path, *, columns: Iterable[str]) -> list[tuple[str, dict[str, str]]]:
    """Rows of a CSV file with a header, each with its place ("FILE, line N").

    Raises:
        LofitError: as `read_text`; or a column is missing, a row is cut short, or there is no row.
    """
    reader = csv.reader(StringIO(read_text(file), newline=""), strict=True)
    rows: list[tuple[str, dict[str, str]]] = []
    header: list[str] = []
    line = 1
    try:
        for cells in reader:
            # A quoted cell may span lines; the row's place is where it begins.
            place, line = f"{file}, line {line}", reader.line_num + 1
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
        raise LofitError(f"{file}, line {line}: cut short or not CSV ({error})") from None
    if not rows:
        raise LofitError(f"{file}: a header without rows; expected at least one example")
    return rows


def check_header(header: list[str], columns: Iterable[str], place: str) -> None:
    """Refuse a header that lacks one of `columns` or holds a name twice."""
    if missing := [name for name in columns if name not in header]:
        raise LofitError(f"{place}: no column {', '.join(missing)}; got {', '.join(header)}")
    if twice := [name for name in header if header.count(name) > 1]:
        raise LofitError(f"{place}: column {twice[0]!r} stands twice; expected each name once")


def read_json_items(file: Path) -> list[tuple[str, dict]]:
    """Objects of a file that holds one JSON list, each with its place ("FILE, item N").

    Raises:
        LofitError: as `read_text`; or the file is not a JSON list of objects.
    """
    items = _parse(read_text(file), f"{file}")
    if not isinstance(items, list) or not items or not all(isinstance(item, dict) for item in items):
        raise LofitError(f"{file}: not a JSON list of objects")
    return [(f"{file}, item {number}", item) for number, item in enumerate(items, 1)]


def read_json_lines(file: Path) -> list[tuple[str, dict]]:
    """Objects of a JSONL file, each with its place ("FILE, line N").

    Raises:
        LofitError: as `read_text`; or a line is not a JSON object.
    """
    rows = []
    for number, line in enumerate(read_text(file).split("\n"), 1):
        if line.strip():
            place = f"{file}, line {number}"
            row = _parse(line, place)
            if not isinstance(row, dict):
                raise LofitError(f"{place}: got {line[:40]!r}; expected a JSON object")
            rows.append((place, row))
    return rows


def _parse(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{place}, line {error.lineno}" if "\n" in text else place
        raise LofitError(f"{where}: cut short or not JSON ({error.msg} at column {error.colno})") from None


KINDS = {str: "text", int: "whole number", list: "list", dict: "block"}


def field(row: dict, place: str, path: str, kind: type = str) -> Any:
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
