"""Which model, exactly: hashes of a folder's files and of a tokenizer."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lofit.storage.files import read_json, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def folder_hash(folder: Path, *, notes: Path | None = None) -> str:
    """SHA-256 over names and contents of the files of a folder, not those of folders in it.

    Args:
        notes: a folder to note the result in, with sizes and times of the files: gigabytes are not read again while
            these are the same.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file())

    def read() -> str:
        digest = hashlib.sha256()
        for file in files:
            digest.update(file.name.encode() + b"\0")
            with file.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
        return digest.hexdigest()

    return _noted(folder, files, notes, read)


def file_hash(file: Path, *, notes: Path | None = None) -> str:
    """SHA-256 of a file; `notes` as for a folder."""

    def read() -> str:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()

    return _noted(file, [file], notes, read)


def _noted(place: Path, files: list[Path], notes: Path | None, read: Callable[[], str]) -> str:
    """What `read` gives, or what it gave for the same files."""
    seen = {str(file.absolute()): [file.stat().st_size, file.stat().st_mtime_ns] for file in files}
    note = notes and notes / f"{hashlib.sha256(str(place.absolute()).encode()).hexdigest()}.json"
    if note and note.exists() and (known := read_json(note))["files"] == seen:
        return str(known["sha256"])
    found = read()
    if note:
        write_json(note, {"files": seen, "sha256": found})
    return found


def tokenizer_hash(tokenizer: "PreTrainedTokenizerBase") -> str:
    """SHA-256 of a fast tokenizer's whole definition."""
    definition = (
        tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else str(sorted(tokenizer.get_vocab().items()))
    )
    return hashlib.sha256(definition.encode()).hexdigest()
