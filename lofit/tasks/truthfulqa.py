"""TruthfulQA (Lin et al. 2022): multiple choice, tuned on preference pairs.

Files and splits are those of the published LoFiT code: two folds, each `fold_<n>_{train,val,test}_seed_42.csv`. One
pair per question: the best answer against the first incorrect one.
"""

from pathlib import Path

from lofit.errors import LofitError
from lofit.tasks.record import Judgement, Protocol, Record, Split
from lofit.tasks.source import read_csv_rows

COLUMNS = ("Question", "Best Answer", "Correct Answers", "Incorrect Answers")


def judgement(protocol: Protocol) -> Judgement:
    if protocol != "clean":
        raise LofitError(f"preprocess.protocol: met {protocol!r}; allowed for truthfulqa: 'clean'")
    return Judgement("dpo", "multiple_choice", "clean")


def load(folder: Path, split: Split, *, protocol: Protocol, fold: int) -> list[Record]:
    rows = read_csv_rows(folder / f"fold_{fold}_{split}_seed_42.csv", columns=COLUMNS)
    return [_record(place, row) for place, row in rows]


def _record(place: str, row: dict[str, str]) -> Record:
    question, best = row["Question"].strip(), row["Best Answer"].strip()
    correct, incorrect = answers(row["Correct Answers"]), answers(row["Incorrect Answers"])
    for column, value in zip(COLUMNS, (question, best, correct, incorrect), strict=True):
        if not value:
            raise LofitError(f"{place}: column {column!r} is empty; allowed: at least one answer or word")
    return Record(
        id=question,
        prompt=f"Q: {question} A:",
        completion=f" {best}",
        rejected=f" {incorrect[0]}",
        # MC1 compares the best answer, so it stands first; MC2 counts it once with the other correct ones.
        correct=tuple(f" {answer}" for answer in dict.fromkeys([best, *correct])),
        incorrect=tuple(f" {answer}" for answer in incorrect),
    )


def answers(joined: str) -> list[str]:
    """The answers of a cell, which the file joins by semicolons."""
    return [answer.strip() for answer in joined.split(";") if answer.strip()]
