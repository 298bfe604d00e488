"""One's own data, brought together: a file, a folder of split files, or a dataset of the hub."""

import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lofit.errors import LofitError
from lofit.extras import extra
from lofit.storage.files import write_json, write_whole
from lofit.tasks.record import SPLITS, Split
from lofit.tasks.rows import EXTENSIONS, SEPARATED, extension_of, read_rows, rows_of_columns
from lofit.tasks.source import ORIGIN, delimiter_of, read_text

if TYPE_CHECKING:
    from datasets import DatasetDict

NAMES = {";": "semicolons", "\t": "tabs"}
HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")
HUB_SPLITS: Mapping[Split, str] = {"train": "train", "val": "validation", "test": "test"}


def fetch(
    source: str,
    out: Path,
    *,
    cache: Path,
    revision: str | None,
    subset: str | None,
    splits: Mapping[Split, str],
) -> None:
    """Bring the data of `source` to `out`: files as they are, a dataset of the hub as JSON lines.

    Args:
        source: a file, which is called `all` in `out`; a folder with `train` and perhaps `val` and `test`, each in one
            of the EXTENSIONS; or the id of a hub dataset, owner/name. What each file in `out` comes from stands in
            `origin.json`, for messages that the user understands.
        cache: where downloads and what `datasets` makes of them are kept; nothing else outside `out` is written.
        revision: branch, tag or commit of the hub dataset; None for its main branch.
        subset: its configuration, where it has several.
        splits: what the hub dataset calls our splits, where that is not train, validation and test.

    Raises:
        LofitError: there is no such file, folder or dataset, it cannot be reached or read, or it lacks a split. Then
            nothing is written to `out`.
    """
    path = Path(source)
    if path.exists():
        for key, value in (("revision", revision), ("subset", subset), ("splits", dict(splits))):
            if value:
                raise LofitError(f"{key}: got {value!r}; expected only for a hub dataset, not for {source}")
        files = split_files(path) if path.is_dir() else {"all": path}
        contents: dict[str, bytes | str] = {
            f"{name}{known_extension(file)}": file.read_bytes() for name, file in files.items()
        }
        for file in files.values():
            # Preprocessing reads them again; what is wrong with one is said before anything is written.
            read_rows(file)
            announce(file)
        origin = dict(zip(contents, map(str, files.values()), strict=True))
    elif HUB_ID.fullmatch(source) and extension_of(path) is None:
        loaded = load_from_hub(source, cache, revision=revision, subset=subset)
        names = hub_splits(source, list(loaded), splits)
        origin = {f"{split}.jsonl": f"{source}/{name}" for split, name in names.items()}
        contents = {
            f"{split}.jsonl": lines(loaded[name].to_dict(), f"{source}/{name}") for split, name in names.items()
        }
    else:
        raise LofitError(
            f"source: no such file or folder: {source}; "
            "expected a file, a folder, or the id of a hub dataset, owner/name"
        )
    for name, content in contents.items():
        write_whole(out / name, content)
    write_json(out / ORIGIN, origin)


def announce(file: Path) -> None:
    """Say what separates the cells of a table that is separated by something else than commas."""
    if (extension_of(file) or "").startswith(SEPARATED) and (mark := delimiter_of(read_text(file))) in NAMES:
        print(f"{file}: a table, separated by {NAMES[mark]}", file=sys.stderr)


def known_extension(file: Path) -> str:
    """The ending of a data file, in small letters.

    Raises:
        LofitError: it is none of the EXTENSIONS.
    """
    if (extension := extension_of(file)) is None:
        raise LofitError(f"source: got {file}; expected a file in {', '.join(EXTENSIONS)}, packed as .gz or not")
    return extension


def split_files(folder: Path) -> dict[str, Path]:
    """The file of each split that `folder` has one of; train must be there."""
    allowed = ", ".join(EXTENSIONS)
    found: dict[str, Path] = {}
    for split in SPLITS:
        files = [
            file
            for file in sorted(folder.iterdir())
            if file.is_file() and (end := extension_of(file)) and file.name.lower() == f"{split}{end}"
        ]
        if len(files) > 1:
            raise LofitError(f"{folder}: got {' and '.join(file.name for file in files)}; expected one file per split")
        if files:
            found[split] = files[0]
    if "train" not in found:
        names = ", ".join(sorted(file.name for file in folder.iterdir())) or "nothing"
        raise LofitError(f"{folder}: no file called train; got {names}; expected train, val and test in {allowed}")
    return found


def load_from_hub(name: str, cache: Path, *, revision: str | None, subset: str | None) -> "DatasetDict":
    """All splits of a hub dataset; what was loaded once needs no network again."""
    # A cache for each revision: without a network, `datasets` falls back to whatever revision it finds.
    folder = cache / "datasets" / (revision or "main").replace("/", "--")
    with downloads_in(cache / "hub"):
        with extra("pipeline", "hub datasets need"):
            import datasets
            from datasets.exceptions import DatasetsError

        quieten()
        try:
            return datasets.load_dataset(name, subset, revision=revision, cache_dir=str(folder))
        except ConnectionError:
            raise LofitError(
                f"source: no file or folder {name} here, and the hub cannot be reached for a dataset; "
                "expected a file or folder that exists, or a hub dataset with a network connection"
            ) from None
        except (DatasetsError, OSError, ValueError, RuntimeError, ImportError) as error:
            asked = "".join(f", {key} {value}" for key, value in (("revision", revision), ("subset", subset)) if value)
            raise LofitError(
                f"source: no file or folder {name} here, and as a hub dataset{asked}: {one_line(error)}"
            ) from None


@contextmanager
def downloads_in(folder: Path) -> Iterator[None]:
    """Have the hub's client keep its downloads in `folder`: `datasets` does not tell it of its own cache_dir."""
    from huggingface_hub import constants

    usual, usual_xet = constants.HF_HUB_CACHE, os.environ.get("HF_XET_CACHE")
    constants.HF_HUB_CACHE = str(folder)
    # Xet, which transfers large files, asks the environment when it starts.
    os.environ["HF_XET_CACHE"] = str(folder.absolute() / "xet")
    try:
        yield
    finally:
        constants.HF_HUB_CACHE = usual
        os.environ.pop("HF_XET_CACHE")
        if usual_xet is not None:
            os.environ["HF_XET_CACHE"] = usual_xet


def hub_splits(source: str, found: list[str], wanted: Mapping[Split, str]) -> dict[Split, str]:
    """What the dataset calls each split that is to be taken from it; none is taken twice."""
    for split, name in wanted.items():
        if name not in found:
            raise LofitError(f"splits.{split}: got {name!r}; expected {', '.join(found)}, as in {source}")
    if len(set(wanted.values())) < len(wanted):
        raise LofitError(f"splits: got {dict(wanted)}; expected another name for each split")
    usual = {split: name for split, name in HUB_SPLITS.items() if name in found and name not in wanted.values()}
    taken = {**usual, **wanted}
    if "train" not in taken:
        raise LofitError(f"splits: {source} has no split 'train'; expected train: {' or '.join(found)}")
    return taken


def lines(columns: Mapping[str, Sequence[Any]], name: str) -> str:
    """The rows of a dataset as JSON lines."""
    rows = rows_of_columns(columns, name)
    return "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)


def quieten() -> None:
    """Silence what the libraries log about every retry and fault; the one line that counts is ours."""
    for name in ("datasets", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def one_line(error: BaseException) -> str:
    """What went wrong, without the example of Python code that `datasets` may add."""
    from datasets.exceptions import DatasetGenerationError

    # This one only says that there is another.
    cause = error.__cause__ if isinstance(error, DatasetGenerationError) else None
    return " ".join(str(cause or error).split("\nExample of usage")[0].split())
