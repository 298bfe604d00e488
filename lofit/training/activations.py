"""Activations: what heads and layers put out on true and false answers, for probes, ITI and RepE.

A text is the bare prompt of a record and an answer, with no example before it and no end token after it; what counts is
its last token. It is read once, whatever number of records repeat it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from lofit.errors import LofitError
from lofit.tasks.contrasts import contrasts
from lofit.tasks.record import Record

if TYPE_CHECKING:
    # What was collected before is read without torch.
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lofit.models.layout import HeadLayout


@dataclass(frozen=True)
class Activations:
    """At the last token of N answers, each read after its prompt; and at that of M question ends."""

    heads: np.ndarray
    """N x layers x heads x head_dim, float16: the input of the output projections."""

    blocks: np.ndarray
    """N x layers x hidden, float16: the output of the layers that hold these heads."""

    labels: np.ndarray
    """N, bool: whether the answer is true."""

    questions: np.ndarray
    """N: the place of the record among those of both splits; true and false answers of one question share it."""

    in_val: np.ndarray
    """N, bool: whether the record is one of validation."""

    question_ends: np.ndarray
    """M x layers x heads x head_dim, float16: heads at the end of a question that follows an answer."""

    def save(self, folder: Path) -> None:
        """Write a `.npy` file of each array; the same activations, the same bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        for entry in fields(self):
            file = file_of(folder, entry.name)
            # An array may be a map of this very file.
            part = file.with_name(f"{file.name}.part")
            with part.open("wb") as opened:
                np.lib.format.write_array(opened, getattr(self, entry.name), allow_pickle=False)
            part.replace(file)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `save` or `collect` wrote, mapped into memory: only what is used is read.

        Raises:
            LofitError: a file is missing, is no array, or does not fit the others.
        """
        arrays = {entry.name: mapped(file_of(folder, entry.name)) for entry in fields(cls)}
        answers, numbers = len(arrays["labels"]), {name: array.ndim for name, array in arrays.items()}
        expected = {"heads": 4, "blocks": 3, "labels": 1, "questions": 1, "in_val": 1, "question_ends": 4}
        if (
            numbers != expected
            or any(len(array) != answers for name, array in arrays.items() if name != "question_ends")
            or arrays["heads"].shape[1:] != arrays["question_ends"].shape[1:]
        ):
            shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
            raise LofitError(f"{folder}: got {shapes}; expected arrays of one set of answers")
        return cls(**arrays)


@dataclass(frozen=True)
class Answer:
    """A text to read: a prompt and what continues it."""

    prompt: str
    text: str
    is_true: bool
    in_val: bool
    question: int
    """The place of the first record that asks it, among those of both splits."""


def collect(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    layout: "HeadLayout",
    records: Sequence[Record],
    val: Sequence[Record],
    *,
    seed: int,
    folder: Path | None = None,
    batch_size: int = 8,
) -> Activations:
    """Read every answer of the records once, through the model as it is.

    A question end is the end of another question's prompt, drawn by `seed`, after a question and its first true answer:
    one for each question of both splits. (The published code of ITI makes one for each answer.)

    Args:
        records: those of training; of several with one prompt, each answer counts once.
        val: those of validation; may be empty.
        folder: where to write the arrays while they are made, which are then mapped from there. Without it they are
            held in memory: (N + M) x layers x heads x head_dim and N x layers x hidden numbers of two bytes.

    Raises:
        LofitError: a record has no wrong answer or is too long for the model; a number is NaN or beyond float16.
    """
    from lofit.models.last_tokens import read_last_tokens
    from lofit.models.layout import hidden_size
    from lofit.models.runtime import frozen
    from lofit.models.tokens import encode
    from lofit.models.vocabulary import vocabulary_of

    answers = answers_of(records, val)
    if not answers:
        raise LofitError("records: got none; expected at least one")
    rows = [encode(tokenizer, answer.prompt, answer.text) for answer in answers]
    pairs = question_ends(answers, seed=seed)
    ends = [encode(tokenizer, before, prompt) for before, prompt in pairs]
    vocabulary = vocabulary_of(model, tokenizer)
    for row, answer in zip(rows, answers, strict=True):
        vocabulary.check(row.ids, answer.prompt)
    for row, (before, _) in zip(ends, pairs, strict=True):
        vocabulary.check(row.ids, before)
    width = hidden_size(model)
    grid = (*layout.grid, layout.head_dim)
    with Room(folder) as room:
        heads = room.array("heads", (len(rows), *grid))
        blocks = room.array("blocks", (len(rows), layout.num_layers, width))
        last = room.array("question_ends", (len(ends), *grid))
        with frozen(model):
            options = {"pad_id": vocabulary.padding, "batch_size": batch_size}
            read_last_tokens(model, layout, rows, heads, blocks, **options, progress="Reading answers")
            read_last_tokens(model, layout, ends, last, None, **options, progress="Reading question ends")
        found = Activations(
            heads=heads,
            blocks=blocks,
            labels=np.array([answer.is_true for answer in answers]),
            questions=np.array([answer.question for answer in answers], dtype=np.int64),
            in_val=np.array([answer.in_val for answer in answers]),
            question_ends=last,
        )
        return room.finished(found)


def answers_of(records: Sequence[Record], val: Sequence[Record]) -> list[Answer]:
    """Every answer to every question of each split, in the records' order, true ones first.

    Raises:
        LofitError: a record has no wrong answer.
    """
    first: dict[tuple[bool, str], int] = {}
    answers = []
    for place, record in enumerate((*records, *val)):
        in_val = place >= len(records)
        question = first.setdefault((in_val, record.prompt), place)
        for is_true, texts in zip((True, False), contrasts(record), strict=True):
            answers += [Answer(record.prompt, text, is_true, in_val, question) for text in texts]
    return list(dict.fromkeys(answers))


def question_ends(answers: Sequence[Answer], *, seed: int) -> list[tuple[str, str]]:
    """For each question, the text of it with its first true answer and a blank, and the prompt that follows.

    That is the prompt of another question, if there is one.
    """
    begun: dict[int, Answer] = {}
    for answer in answers:
        begun.setdefault(answer.question, answer)
    known = list(begun.values())
    prompts = list(dict.fromkeys(answer.prompt for answer in known))
    pairs = []
    for answer in known:
        own = prompts.index(answer.prompt)
        step = int(np.random.default_rng([seed, answer.question]).integers(1, max(len(prompts), 2)))
        pairs.append((f"{answer.prompt}{answer.text} ", prompts[(own + step) % len(prompts)]))
    return pairs


class Room:
    """Where arrays are made: in files of a folder, or in memory."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.files: list[np.memmap] = []

    def __enter__(self) -> Self:
        if self.folder:
            self.folder.mkdir(parents=True, exist_ok=True)
            # Without these, what an earlier run has left is not taken for a whole.
            for entry in fields(Activations):
                file_of(self.folder, entry.name).unlink(missing_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.files.clear()

    def array(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        if self.folder is None:
            return np.empty(shape, np.float16)
        file = file_of(self.folder, name)
        self.files.append(np.lib.format.open_memmap(file, mode="w+", dtype=np.float16, shape=shape))
        return self.files[-1]

    def finished(self, found: Activations) -> Activations:
        """The arrays as the caller gets them; the small ones are written last, so that half a folder is none."""
        if self.folder is None:
            return found
        for file in self.files:
            file.flush()
        for name in ("questions", "in_val", "labels"):
            np.save(file_of(self.folder, name), getattr(found, name), allow_pickle=False)
        return Activations.load(self.folder)


def file_of(folder: Path, name: str) -> Path:
    return folder / f"{name}.npy"


def mapped(file: Path) -> np.ndarray:
    """The array of a `.npy` file, read-only and not read yet.

    Raises:
        LofitError: the file is missing or no whole array of numbers.
    """
    try:
        return np.lib.format.open_memmap(file, mode="r")
    except FileNotFoundError:
        raise LofitError(f"{file}: no such file; expected a folder of activations") from None
    except (ValueError, OSError) as error:
        raise LofitError(f"{file}: not a whole array of numbers ({str(error).splitlines()[0]})") from None
