"""Files and folders, written whole or not at all."""

import json
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lofit.errors import LofitError


def write_whole(path: Path, content: bytes | str) -> None:
    """Write `content` next to `path` and move it there in one step; makes the folder where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content.encode() if isinstance(content, str) else content)
    partial.replace(path)


def check_free(out: Path, *, force: bool = False) -> None:
    """A LofitError where the folder `out` is a file, or holds something and `force` is not set."""
    if out.exists() and not out.is_dir():
        raise LofitError(f"{out}: got a file; expected a new or empty folder")
    if out.exists() and any(out.iterdir()) and not force:
        raise LofitError(f"{out}: got a folder that is not empty; expected a new or empty one, or --force")


@contextmanager
def whole_folder(out: Path, *, force: bool = False) -> Iterator[Path]:
    """A folder next to `out` to write into, which becomes `out` at the end of the block.

    If the block raises, what it wrote is dropped and `out` is what it was.

    Raises:
        LofitError: `out` is a file, or holds something and `force` is not set.
    """
    out = out.absolute()
    check_free(out, force=force)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        partial, old = Path(scratch, out.name), Path(scratch, "old")
        partial.mkdir()
        yield partial
        # Somebody else may have been faster.
        check_free(out, force=force)
        if out.exists():
            out.rename(old)
        try:
            partial.rename(out)
        except OSError:
            if old.exists():
                old.rename(out)
            raise


def json_text(value: Any) -> str:
    """JSON as it stands in a file; a LofitError for what JSON cannot hold, NaN included."""
    try:
        return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise LofitError(
            f"got a value that JSON cannot hold ({error}); expected numbers, texts, lists, blocks"
        ) from None


def write_json(path: Path, value: Any) -> None:
    write_whole(path, json_text(value))


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write_jsonl(path: Path, rows: Iterable[dict]) -> None:
    write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_jsonl(path: Path) -> list[dict]:
    # Not splitlines(): a string may hold U+2028, which JSON leaves as it is.
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
