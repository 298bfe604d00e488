"""Tasks: from published files to records.

A task is a module with two functions: `judgement(protocol)` says how its records are trained on and scored, and
`load(folder, split, protocol=, fold=)` reads one split of its files.
"""

import random
from importlib import import_module
from pathlib import Path

from lofit.tasks.record import SPLITS, Protocol, Record, Split, write_records


def preprocess(
    kind: str, raw: Path, out: Path, *, protocol: Protocol, fold: int, train_size: int | None, seed: int
) -> dict[Split, int]:
    """Turn a task's files in `raw` into records in `out`; returns how many there are of each split.

    Args:
        kind: the name of a module of this package.
        train_size: how many training examples to draw, or None for all.
        seed: decides the draw.

    Raises:
        LofitError: a file is missing or malformed; the message names file and line.
    """
    task = import_module(f"lofit.tasks.{kind}")
    judgement = task.judgement(protocol)
    splits: dict[Split, list[Record]] = {split: task.load(raw, split, protocol=protocol, fold=fold) for split in SPLITS}
    if train_size is not None and train_size < len(splits["train"]):
        splits["train"] = random.Random(seed).sample(splits["train"], train_size)
    write_records(out, judgement, splits)
    return {split: len(records) for split, records in splits.items()}
