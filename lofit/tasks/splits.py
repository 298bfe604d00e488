"""One's own examples in three splits: from a file each, or drawn by ratios from one."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from lofit.errors import LofitError
from lofit.tasks.record import SPLITS, Options, Record, Split
from lofit.tasks.source import name_of

Files = Mapping[str, Path]
"""Data files by their names without ending."""


def source_names(files: Files, options: Options) -> dict[Split, str]:
    """Which of `files` each split comes from; those that share one are to be split by ratio.

    Raises:
        LofitError: a split has neither file nor ratio, or both.
    """
    names: dict[Split, str] = {split: split for split in SPLITS}
    if "all" in files:
        if others := [name_of(files[name]) for name in names if name in files]:
            raise LofitError(
                f"{name_of(files['all'])}: got {others[0]} as well; expected one file for all splits, or one for each"
            )
        names["train"] = "all"
    if names["train"] not in files:
        raise LofitError("source: got no file called train; expected one, or one file for all splits")
    wanted: tuple[tuple[Split, float | None], ...] = (("val", options.val_ratio), ("test", options.test_ratio))
    for split, ratio in wanted:
        if split in files:
            if ratio is not None:
                raise LofitError(f"{split}_ratio: got {ratio}; expected null, since there is {name_of(files[split])}")
        elif ratio is None:
            raise LofitError(
                f"{split}_ratio: missing; expected the share of {name_of(files[names['train']])} to take for {split}, "
                f"such as 0.2, or a source with a file called {split}"
            )
        else:
            names[split] = names["train"]
    return names


def parts(name: str, groups: Sequence[str], ratios: Mapping[Split, float], *, seed: int) -> dict[Split, list[int]]:
    """Which lines go to each split, by a shuffle; each split keeps the order of the lines.

    The same groups, seed and ratios give the same split; one line more in the file reshuffles all of them. The split
    that `ratios` names first does not depend on the others' ratios.

    Args:
        name: what the user calls the file.
        groups: the group of each line. The lines of a group stay together, so a split may get a few lines more.

    Raises:
        LofitError: a split would be empty.
    """
    members: dict[str, list[int]] = {}
    for line, group in enumerate(groups):
        members.setdefault(group, []).append(line)
    order = list(members.values())
    random.Random(seed).shuffle(order)
    split: dict[Split, list[int]] = {}
    for other, ratio in ratios.items():
        size = round(len(groups) * ratio)
        taken: list[int] = []
        while order and len(taken) < size:
            taken += order.pop(0)
        split[other] = sorted(taken)
    split["train"] = sorted(line for lines in order for line in lines)
    if empty := [other for other, lines in split.items() if not lines]:
        shares = ", ".join(f"{other}_ratio {ratio}" for other, ratio in ratios.items())
        count = f"{len(groups)} lines" + (f" in {len(members)} groups" if len(members) < len(groups) else "")
        raise LofitError(f"{name}: {count} leave none for {empty[0]} at {shares}; expected at least one each")
    return split


def repeated(splits: Mapping[Split, Sequence[Record]]) -> dict[Split, int]:
    """How many examples of a split ask what an earlier split asks, word for word; fold by fold."""
    earlier: set[tuple[int, str]] = set()
    counts: dict[Split, int] = {}
    for split, records in splits.items():
        asked = [(record.fold, record.prompt) for record in records]
        counts[split] = sum(question in earlier for question in asked)
        earlier.update(asked)
    return counts
