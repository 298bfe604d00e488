"""Tasks: from published files, or one's own, to records.

A task is a module with two functions: `aims(folder, options)` says how its records are trained on and how they are
scored, and `load(folder, split, options)` reads one split of its files, all folds that the options name.
"""

import random
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Literal

from lofit.errors import LofitError
from lofit.tasks.prompts import Reader
from lofit.tasks.record import SPLITS, Options, Record, Split, by_fold, write_records
from lofit.tasks.splits import repeated


def preprocess(
    kind: str, raw: Path, out: Path, options: Options, *, reader: Callable[[], Reader] | None = None
) -> dict[str, int]:
    """Turn a task's files in `raw` into records in `out`.

    Args:
        kind: the name of a module of this package.
        reader: gives what writes chats and measures examples, where there are any or `options` ask for it.

    Returns:
        How many records there are of each split, by fold if several; how many ask what a record of an earlier split
        asks; and of `overlong` ones how many were left out or cut.

    Raises:
        LofitError: a file is missing or malformed; the message names file and line.
    """
    task = import_module(f"lofit.tasks.{kind}")
    objective, metric = task.aims(raw, options)
    splits: dict[Split, list[Record]] = {split: task.load(raw, split, options) for split in SPLITS}
    figures: dict[str, int] = {}
    chats = any(record.turns for records in splits.values() for record in records)
    for key, value in (("system", options.system), ("chat_options", options.chat_options)):
        if value and not chats:
            raise LofitError(f"{key}: got {value!r}; expected only with chat: true, or for messages")
    if reader and (chats or options.overlong != "refuse"):
        read = reader()
        if options.overlong == "refuse":
            splits = {split: read.write(records) for split, records in splits.items()}
        else:
            generates = metric.kind == "exact_match"
            splits, figures = shortened(splits, read if generates else replace(read, new_tokens=0), options.overlong)
    if options.train_size is not None:
        splits["train"] = sampled(splits["train"], options.train_size, options.seed)
    empty = [split for split, records in splits.items() if not records]
    if empty and options.overlong != "refuse":
        raise LofitError(f"overlong: got {options.overlong}, which leaves no example of {empty[0]}; expected some")
    repeats = repeated(splits)
    for split, count in repeats.items():
        if count:
            earlier = " or ".join(SPLITS[: SPLITS.index(split)])
            print(f"warning: {count} of {len(splits[split])} {split} prompts stand in {earlier}, too", file=sys.stderr)
    write_records(out, objective, metric, splits)
    if len(options.folds) == 1:
        counts = {str(split): len(records) for split, records in splits.items()}
    else:
        counts = {
            f"{split}_fold_{fold}": len(records) for split in SPLITS for fold, records in by_fold(splits[split]).items()
        }
    return {**counts, "repeated": sum(repeats.values()), **figures}


def shortened(
    splits: dict[Split, list[Record]], reader: Reader, overlong: Literal["drop", "cut_prompt"]
) -> tuple[dict[Split, list[Record]], dict[str, int]]:
    """The splits without examples that are too long, and how many were left out or cut."""
    short: dict[Split, list[Record]] = {}
    total = 0
    for split, records in splits.items():
        short[split], count = reader.shorten(records, overlong)
        total += count
    return short, {"dropped" if overlong == "drop" else "cut": total}


def sampled(records: list[Record], size: int, seed: int) -> list[Record]:
    """`size` records of each fold, in the order they are drawn (the published code's `random.sample`)."""
    return [
        record
        for fold in by_fold(records).values()
        for record in (random.Random(seed).sample(fold, size) if size < len(fold) else fold)
    ]
