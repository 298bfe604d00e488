"""One's own task: JSON lines of one of three shapes, and no code.

    {"prompt": ..., "completion": ...}             trained by cross-entropy, scored by exact match; "aliases" optional
    {"prompt": ..., "chosen": ..., "rejected": ...}    trained by DPO, scored by preference accuracy
    {"prompt": ..., "choices": [...], "answer": ...}   trained by cross-entropy on the answer, scored by accuracy

The fields tell the shape. Files are `train.jsonl`, `val.jsonl` and `test.jsonl`; or `all.jsonl`, split by ratios. A
split that lacks a file is taken from `train.jsonl` by its ratio.
"""

import random
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lofit.errors import LofitError
from lofit.tasks.record import SPLITS, Metric, Objective, Options, Record, Split
from lofit.tasks.source import field, read_json_lines

Shape = Literal["completion", "preference", "choice"]
Row = tuple[str, dict]
"""A line's place ("FILE, line N"), and its fields."""

REQUIRED: Mapping[Shape, tuple[str, ...]] = {
    "completion": ("completion",),
    "preference": ("chosen", "rejected"),
    "choice": ("choices", "answer"),
}
OPTIONAL: Mapping[Shape, tuple[str, ...]] = {"completion": ("aliases",), "preference": (), "choice": ()}
AIMS: Mapping[Shape, tuple[Objective, Metric]] = {
    "completion": (Objective("cross_entropy"), Metric("exact_match", stops=("\n",))),
    "preference": (Objective("dpo"), Metric("preference_accuracy")),
    "choice": (Objective("cross_entropy"), Metric("accuracy")),
}
"""How records of each shape are trained on and scored."""
SHAPES = "completion; or chosen and rejected; or choices and answer"


def aims(folder: Path, options: Options) -> tuple[Objective, Metric]:
    """How the files in `folder` are trained on and scored, by the shape of their lines.

    Raises:
        LofitError: a line has no shape, or another than the first line.
    """
    first: Shape | None = None
    for split in ("all", *SPLITS):
        file = folder / f"{split}.jsonl"
        for place, row in read_json_lines(file) if file.exists() else ():
            shape = shape_of(place, row, columns_of(options))
            first = first or shape
            if shape != first:
                allowed = " and ".join(REQUIRED[first])
                raise LofitError(f"{place}: got {' and '.join(REQUIRED[shape])}; expected {allowed}, as before")
    return AIMS[first or "completion"]


def columns_of(options: Options) -> dict[str, str]:
    """Which field holds what, by key."""
    return {str(key): field for key, field in options.columns.items()}


def load(folder: Path, split: Split, options: Options) -> list[Record]:
    """The records of one split, in the order of their lines.

    Raises:
        LofitError: a line is none of a task, two have one id, or the splits cannot be made.
    """
    files = source_files(folder, options)
    rows = read_json_lines(files[split])
    records = [record(place, row, options) for place, row in rows]
    refuse_same_ids(rows, records)
    if files[split] != files["train"]:
        return records
    # Test first: another val_ratio leaves the test split as it is.
    wanted: dict[Split, float | None] = {"test": options.test_ratio, "val": options.val_ratio}
    ratios = {other: ratio for other, ratio in wanted.items() if ratio is not None}
    return [records[i] for i in parts(files[split], len(records), ratios, seed=options.seed)[split]]


def source_files(folder: Path, options: Options) -> dict[Split, Path]:
    """Which file each split comes from; those that share one are to be split by ratio.

    Raises:
        LofitError: a split has neither file nor ratio, or both.
    """
    files: dict[Split, Path] = {split: folder / f"{split}.jsonl" for split in SPLITS}
    whole = folder / "all.jsonl"
    if whole.exists():
        if others := [file.name for file in files.values() if file.exists()]:
            raise LofitError(f"{whole}: got {others[0]} as well; expected one file for all splits, or one for each")
        files["train"] = whole
    wanted: tuple[tuple[Split, float | None], ...] = (("val", options.val_ratio), ("test", options.test_ratio))
    for split, ratio in wanted:
        if files[split].exists():
            if ratio is not None:
                raise LofitError(f"{split}_ratio: got {ratio}; expected null, since there is {files[split]}")
        elif ratio is None:
            raise LofitError(
                f"{split}_ratio: missing; expected the share of {files['train'].name} to take for {split}, "
                f"such as 0.2, or a source with a file called {split}"
            )
        else:
            files[split] = files["train"]
    return files


def parts(file: Path, count: int, ratios: Mapping[Split, float], *, seed: int) -> dict[Split, list[int]]:
    """Which of `count` lines go to each split, by a shuffle; each split keeps the order of the lines.

    The same count, seed and ratios give the same split; one line more in the file reshuffles all of them. The split
    that `ratios` names first does not depend on the others' ratios.

    Raises:
        LofitError: a split would be empty.
    """
    order = list(range(count))
    random.Random(seed).shuffle(order)
    split: dict[Split, list[int]] = {}
    for name, ratio in ratios.items():
        size = round(count * ratio)
        split[name], order = sorted(order[:size]), order[size:]
    split["train"] = sorted(order)
    if empty := [name for name, lines in split.items() if not lines]:
        shares = ", ".join(f"{name}_ratio {ratio}" for name, ratio in ratios.items())
        raise LofitError(f"{file}: {count} lines leave none for {empty[0]} at {shares}; expected at least one each")
    return split


def refuse_same_ids(rows: Sequence[Row], records: Sequence[Record]) -> None:
    first: dict[str, str] = {}
    for (place, _), record in zip(rows, records, strict=True):
        if record.id in first:
            raise LofitError(f"{place}: id {record.id!r} stands in {first[record.id]} already; expected each once")
        first[record.id] = place


def shape_of(place: str, row: dict, columns: Mapping[str, str]) -> Shape:
    """The shape of a line: the one whose fields `columns` names, or else whose fields the line has.

    A field that is null counts as absent: tables have a cell for every column.

    Raises:
        LofitError: it has all fields of no shape, or some of two.
    """
    keys: dict[Shape, tuple[str, ...]] = {shape: REQUIRED[shape] + OPTIONAL[shape] for shape in REQUIRED}
    named = [shape for shape in keys if any(key in columns for key in keys[shape])]
    if len(named) > 1:
        raise LofitError(f"columns: got {', '.join(columns)}; expected {SHAPES}")
    shapes = named or [shape for shape in keys if any(_value(row, key) is not None for key in keys[shape])]
    if len(shapes) == 1:
        missing = [key for key in REQUIRED[shapes[0]] if _value(row, columns.get(key, key)) is None]
        if not missing:
            return shapes[0]
        if named:
            raise LofitError(f"{place}: no field {columns.get(missing[0], missing[0])!r}; got {', '.join(row)}")
    raise LofitError(
        f"{place}: got {', '.join(row) or 'no field'}; expected, besides the prompt, {SHAPES} "
        "(columns says which field is which)"
    )


def record(place: str, row: dict, options: Options) -> Record:
    shape = shape_of(place, row, columns_of(options))
    prompt = fill(options.template, place, row)

    def value(key: str, kind: type = str) -> Any:
        return field(row, place, columns_of(options).get(key, key), kind)

    def texts(key: str) -> list[str]:
        path = columns_of(options).get(key, key)
        return [field(row, place, f"{path}.{i}") for i in range(len(field(row, place, path, list)))]

    def continued(text: str) -> str:
        # A chat template decides by itself how an answer begins.
        touching = not options.chat and not prompt[-1].isspace() and not text[0].isspace()
        return f" {text}" if touching else text

    if shape == "preference":
        chosen, rejected = continued(value("chosen")), continued(value("rejected"))
        return Record(_id(place, row), prompt, chosen, rejected, chat=options.chat)
    if shape == "choice":
        choices = texts("choices")
        right = answer_index(place, _value(row, columns_of(options).get("answer", "answer")), choices)
        correct = continued(choices.pop(right))
        incorrect = tuple(continued(choice) for choice in choices)
        return Record(_id(place, row), prompt, correct, correct=(correct,), incorrect=incorrect, chat=options.chat)
    completion = value("completion")
    if "\n" in completion.strip():
        raise LofitError(f"{place}: the completion has several lines; expected one, as a prediction ends with its line")
    aliases = texts("aliases") if _value(row, columns_of(options).get("aliases", "aliases")) is not None else []
    return Record(_id(place, row), prompt, continued(completion), aliases=tuple(aliases), chat=options.chat)


def answer_index(place: str, answer: Any, choices: Sequence[str]) -> int:
    """Which choice `answer` means: it is an index from 0, a letter from A, or the text of the choice itself.

    Raises:
        LofitError: it means none or two of them, or the choices are fewer than two or not all different.
    """
    plain = [choice.strip() for choice in choices]
    if len(plain) < 2:
        raise LofitError(f"{place}: got {len(plain)} choices; expected two or more")
    if twice := [choice for choice in plain if plain.count(choice) > 1]:
        raise LofitError(f"{place}: choice {twice[0]!r} stands twice; expected each once")
    letters = string.ascii_uppercase[: len(plain)]
    meant: set[int] = set()
    if isinstance(answer, str):
        meant = {i for i, choice in enumerate(plain) if choice == answer.strip()}
        meant |= {i for i, letter in enumerate(letters) if letter == answer.strip()}
    elif isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(plain):
        meant = {answer}
    if len(meant) == 1:
        return meant.pop()
    if meant:
        raise LofitError(f"{place}: answer {answer!r} is the letter of one choice and the text of another")
    raise LofitError(
        f"{place}: answer {answer!r}; expected 0 to {len(plain) - 1}, A to {letters[-1]}, or the text of a choice"
    )


def fill(template: str, place: str, row: dict) -> str:
    """The prompt: `template` with each {field}, or dotted {path.to.field}, of a line put in once.

    Raises:
        LofitError: the template is malformed, the line lacks one of its fields, or the prompt is blank.
    """
    pieces = []
    try:
        for literal, path, spec, conversion in string.Formatter().parse(template):
            if spec or conversion:
                raise ValueError("a field has a name and no format")
            pieces.append(literal)
            if path is not None:
                pieces.append(_printed(place, row, path))
    except ValueError as error:
        if isinstance(error, LofitError):
            raise
        raise LofitError(f"template: got {template!r} ({error}); expected text and {{field}}") from None
    prompt = "".join(pieces)
    if not prompt.strip():
        raise LofitError(f"{place}: the prompt is blank; expected at least one word")
    return prompt


def _printed(place: str, row: dict, path: str) -> str:
    value = _value(row, path)
    if value is None:
        raise LofitError(f"{place}: no field {path!r}, which the template names; got {', '.join(row)}")
    if not isinstance(value, str | int | float):
        raise LofitError(f"{place}: field {path!r} is a {type(value).__name__}; expected in a template: text, number")
    return str(value)


def _id(place: str, row: dict) -> str:
    value = row.get("id")
    if value is None:
        file, _, line = place.rpartition(", line ")
        return f"{Path(file).name}:{line}"
    if not isinstance(value, str | int):
        raise LofitError(f"{place}: id {value!r}; expected a text or a whole number")
    return str(value)


def _value(row: dict, path: str) -> Any:
    """The value at a dotted path, or None where there is none."""
    value: Any = row
    for key in path.split("."):
        if isinstance(value, dict):
            value = value.get(key)
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            return None
    return value
