"""Tasks: from published files, or one's own, to records.

A task is a module with two functions: `aims(folder, options)` says how its records are trained on and how they are
scored, and `load(folder, split, options)` reads one split of its files, all folds that the options name.
"""

import random
from importlib import import_module
from pathlib import Path

from lofit.tasks.record import SPLITS, Options, Record, Split, by_fold, write_records


def preprocess(kind: str, raw: Path, out: Path, options: Options) -> dict[str, int]:
    """Turn a task's files in `raw` into records in `out`; returns how many there are of each split, by fold if several.

    Args:
        kind: the name of a module of this package.

    Raises:
        LofitError: a file is missing or malformed; the message names file and line.
    """
    task = import_module(f"lofit.tasks.{kind}")
    objective, metric = task.aims(raw, options)
    splits: dict[Split, list[Record]] = {split: task.load(raw, split, options) for split in SPLITS}
    if options.train_size is not None:
        splits["train"] = sampled(splits["train"], options.train_size, options.seed)
    write_records(out, objective, metric, splits)
    if len(options.folds) == 1:
        return {split: len(records) for split, records in splits.items()}
    return {
        f"{split}_fold_{fold}": len(records) for split in SPLITS for fold, records in by_fold(splits[split]).items()
    }


def sampled(records: list[Record], size: int, seed: int) -> list[Record]:
    """`size` records of each fold, in the order they are drawn (the published code's `random.sample`)."""
    return [
        record
        for fold in by_fold(records).values()
        for record in (random.Random(seed).sample(fold, size) if size < len(fold) else fold)
    ]
