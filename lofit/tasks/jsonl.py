"""One's own task: examples of one of these shapes, and no code.

    {"prompt": ..., "completion": ...}             trained by cross-entropy, scored by exact match; "aliases" optional
    {"messages": [...]}                            a chat that ends with the answer; otherwise the same
    {"prompt": ..., "chosen": ..., "rejected": ...}    trained by DPO, scored by preference accuracy
    {"prompt": ..., "choices": [...], "answer": ...}   trained by cross-entropy on the answer, scored by accuracy

The fields tell the shape; prompt, completion, chosen and rejected may be lists of messages, too. Files are `train`,
`val` and `test`; or `all`, split by ratios. A split that lacks a file is taken from `train` by its ratio.
"""

import json
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lofit.errors import LofitError
from lofit.tasks.chats import is_chat, unpack
from lofit.tasks.fields import fill, shown, text_of, texts_of, value_at, whole_number
from lofit.tasks.record import Metric, Objective, Options, Record, Split
from lofit.tasks.rows import files_in, read_rows
from lofit.tasks.source import Place, Rows, name_of, printed
from lofit.tasks.splits import parts, source_names

Shape = Literal["completion", "messages", "preference", "choice"]

REQUIRED: Mapping[Shape, tuple[str, ...]] = {
    "completion": ("completion",),
    "messages": ("messages",),
    "preference": ("chosen", "rejected"),
    "choice": ("choices", "answer"),
}
OPTIONAL: Mapping[Shape, tuple[str, ...]] = {"completion": ("aliases",), "messages": (), "preference": (), "choice": ()}
AIMS: Mapping[Shape, tuple[Objective, Metric]] = {
    "completion": (Objective("cross_entropy"), Metric("exact_match", stops=("\n",))),
    # The end token ends an answer, which may have several lines.
    "messages": (Objective("cross_entropy"), Metric("exact_match", stops=())),
    "preference": (Objective("dpo"), Metric("preference_accuracy")),
    "choice": (Objective("cross_entropy"), Metric("accuracy")),
}
"""How records of each shape are trained on and scored."""
SHAPES = "completion; or messages; or chosen and rejected; or choices and answer"


def aims(folder: Path, options: Options) -> tuple[Objective, Metric]:
    """How the files in `folder` are trained on and scored, by the shape of their lines.

    Raises:
        LofitError: a line has no shape, or another than the first line.
    """
    first: Shape | None = None
    for file in files_in(folder).values():
        for place, row in read_rows(file):
            shape = shape_of(place, row, columns_of(options))
            first = first or shape
            if shape != first:
                allowed = " and ".join(REQUIRED[first])
                raise LofitError(f"{place}: got {' and '.join(REQUIRED[shape])}; expected {allowed}, as before")
    return AIMS[first or "completion"]


def columns_of(options: Options) -> dict[str, str]:
    """Which field holds what, by key."""
    return {str(key): field for key, field in options.columns.items() if field is not None}


def load(folder: Path, split: Split, options: Options) -> list[Record]:
    """The records of one split, in the order of their lines.

    Raises:
        LofitError: a line is none of a task, two have one id, or the splits cannot be made.
    """
    files = files_in(folder)
    names = source_names(files, options)
    file = files[names[split]]
    rows = read_rows(file)
    records = [record(place, row, options) for place, row in rows]
    refuse_same_ids(rows, records)
    if names[split] != names["train"]:
        return records
    # Test first: another val_ratio leaves the test split as it is.
    wanted: dict[Split, float | None] = {"test": options.test_ratio, "val": options.val_ratio}
    ratios = {other: ratio for other, ratio in wanted.items() if ratio is not None}
    groups = [group_of(place, row, options.group) for place, row in rows]
    return [records[i] for i in parts(name_of(file), groups, ratios, seed=options.seed)[split]]


def group_of(place: Place, row: dict, path: str | None) -> str:
    """What the lines have in common that go to one split together; each is a group by itself without a `path`."""
    value = str(place) if path is None else printed(value_at(row, path))
    if value is None:
        raise LofitError(f"{place}: no text or number in field {path!r}, which group names; got {', '.join(row)}")
    return value


def refuse_same_ids(rows: Rows, records: Sequence[Record]) -> None:
    first: dict[str, Place] = {}
    for (place, _), record in zip(rows, records, strict=True):
        if record.id in first:
            raise LofitError(
                f"{place}: id {record.id!r} stands in {first[record.id]} already; expected each once, or "
                "columns: {id: null} to make no use of ids"
            )
        first[record.id] = place


def shape_of(place: Place, row: dict, columns: Mapping[str, str]) -> Shape:
    """The shape of a line: the one whose fields `columns` names, or else whose fields the line has.

    A field that is null counts as absent: tables have a cell for every column.

    Raises:
        LofitError: it has all fields of no shape, or some of two.
    """
    keys: dict[Shape, tuple[str, ...]] = {shape: REQUIRED[shape] + OPTIONAL[shape] for shape in REQUIRED}
    named = [shape for shape in keys if any(key in columns for key in keys[shape])]
    if len(named) > 1:
        raise LofitError(f"columns: got {', '.join(columns)}; expected {SHAPES}")
    shapes = named or [shape for shape in keys if any(value_at(row, key) is not None for key in keys[shape])]
    if len(shapes) == 1:
        missing = [key for key in REQUIRED[shapes[0]] if value_at(row, columns.get(key, key)) is None]
        if not missing:
            return shapes[0]
        if named:
            raise LofitError(f"{place}: no field {columns.get(missing[0], missing[0])!r}; got {', '.join(row)}")
    raise LofitError(
        f"{place}: got {', '.join(map(str, row)) or 'no field'}; expected, besides the prompt, {SHAPES} "
        "(columns says which field is which)"
    )


def record(place: Place, row: dict, options: Options) -> Record:
    """The record of a line.

    Raises:
        LofitError: a field is missing, blank or of another type, or holds what is no text.
    """
    columns = columns_of(options)
    shape = shape_of(place, row, columns)
    given = {key: value_at(row, columns.get(key, key)) for key in (*REQUIRED[shape], *OPTIONAL[shape])}
    asked = {"prompt": row["prompt"]} if is_chat(row.get("prompt")) else {}
    turns, fields = unpack(place, {**given, **asked})
    prompt = "" if turns else fill(options.template, place, row)
    if options.chat and not turns:
        turns, prompt = ({"role": "user", "content": prompt},), ""
    if options.system is not None and turns and turns[0]["role"] != "system":
        turns = ({"role": "system", "content": options.system}, *turns)

    def text(key: str) -> str:
        return text_of(place, columns.get(key, key), fields[key])

    def continued(text: str) -> str:
        # A chat template decides by itself how an answer begins.
        touching = not turns and not prompt[-1].isspace() and not text[0].isspace()
        return f" {text}" if touching else f"{blanks}{text}"

    # Tokenizers make one token of a blank and the word behind it: after a blank at its end a prompt would be continued
    # from a token that training has never seen there.
    asked_for = prompt.rstrip(" ")
    blanks = prompt[len(asked_for) :]
    made: dict[str, Any] = {"id": id_of(place, row, options), "prompt": asked_for, "turns": turns}
    if shape == "preference":
        made |= {"completion": continued(text("chosen")), "rejected": continued(text("rejected"))}
        if made["completion"] == made["rejected"]:
            raise LofitError(f"{place}: chosen and rejected are the same; expected two answers")
    elif shape == "choice":
        choices = texts_of(place, columns.get("choices", "choices"), fields["choices"])
        numbers = not any(isinstance(choice, str) for choice in fields["choices"])
        right = answer_index(place, fields["answer"], choices, numbers=numbers)
        completion = continued(choices.pop(right))
        incorrect = tuple(continued(choice) for choice in choices)
        made |= {"completion": completion, "correct": (completion,), "incorrect": incorrect}
    elif shape == "messages":
        made |= {"completion": text_of(place, "messages", fields["completion"])}
    else:
        completion = text("completion")
        if "\n" in completion.strip():
            raise LofitError(
                f"{place}: the completion has several lines; expected one, as a prediction ends with its line"
            )
        aliases = fields["aliases"]
        made |= {
            "completion": continued(completion),
            "aliases": () if aliases is None else tuple(texts_of(place, columns.get("aliases", "aliases"), aliases)),
        }
    return whole(place, Record(**made))


def whole(place: Place, record: Record) -> Record:
    """A record whose texts are Unicode: an escape of JSON can hold half a character, such as half an emoji.

    Raises:
        LofitError: one is not.
    """
    try:
        json.dumps(record.to_json(), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise LofitError(f"{place}: holds half a character; expected whole Unicode characters") from None
    return record


def answer_index(place: Place, answer: Any, choices: Sequence[str], *, numbers: bool = False) -> int:
    """Which choice `answer` means: it is an index from 0, a letter from A, or the text of the choice itself.

    Args:
        numbers: the choices were numbers, so a number may be one of them.

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
    if isinstance(answer, str) or numbers:
        said = (printed(answer) or "").strip()
        meant = {i for i, choice in enumerate(plain) if choice == said}
        meant |= {i for i, letter in enumerate(letters) if letter == said}
    if (index := whole_number(answer)) is not None and 0 <= index < len(plain):
        meant |= {index}
    if len(meant) == 1:
        return meant.pop()
    if meant:
        sign = "letter" if isinstance(answer, str) else "index"
        raise LofitError(f"{place}: answer {shown(answer)} is the {sign} of one choice and the text of another")
    raise LofitError(
        f"{place}: answer {shown(answer)}; expected 0 to {len(plain) - 1}, A to {letters[-1]}, or the text of a choice"
    )


def id_of(place: Place, row: dict, options: Options) -> str:
    """What the line is called: by its field `id`, or by its place."""
    path = options.columns.get("id", "id")
    value = None if path is None else value_at(row, path)
    if value is None:
        return place.id
    number = whole_number(value)
    if number is None and not isinstance(value, str):
        raise LofitError(f"{place}: id {shown(value)}; expected a text or a whole number")
    return value if number is None else str(number)
