"""Published question files as they lie on disk, in the columns of lm-eval's own tasks.

The tasks of `lofit/scoring/lm_eval_tasks` name these functions as their `custom_dataset`. Each takes a place below a
folder, `files`, and returns the documents of one split, `test`.
"""

import csv
import re
from collections.abc import Iterable
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lofit.errors import LofitError
from lofit.tasks.source import Place, field, read_json_items, read_json_lines, read_text

if TYPE_CHECKING:
    from datasets import Dataset

FOLDER = "data/ood"
"""Where the files are looked for, unless told otherwise."""

FILES = {
    "mmlu_val_local": "mmlu/val",
    "nq_open_local": "nq_open/NQ-open.dev.jsonl",
    "triviaqa_1k_local": "triviaqa_1k/test.jsonl",
    "arc_challenge_local": "llm_adapters/ARC-Challenge/test.json",
    "boolq_closed_book_local": "llm_adapters/boolq/test.json",
    "svamp_local": "svamp/SVAMP.json",
}
"""What each task reads, below the folder: a file, or a folder of files."""

ARC = re.compile(
    r"Please choose the correct answer to the question: (?P<question>.*?)\n\nAnswer1: (?P<choices>.*)\n\n"
    r"Answer format: answer1(/answer\d)*",
    re.DOTALL,
)
BOOLQ = re.compile(
    r"Please answer the following question with true or false, question: (?P<question>.*)\?\n\n"
    r"Answer format: true/false",
    re.DOTALL,
)
LETTERS = "ABCDE"
TRUTHS = ("false", "true")


def mmlu(*, files: str = FOLDER, file: str = FILES["mmlu_val_local"], **_: Any) -> dict[str, "Dataset"]:
    """MMLU: a folder with a CSV file without header for each subject: question, four choices, the letter of the answer.

    The subject is the file's name up to its last `_`, as in `high_school_biology_val.csv`. Files come in the order of
    their names.
    """
    folder = Path(files, file)
    found = sorted(folder.glob("*.csv"))
    if not found:
        raise LofitError(f"{folder}: no CSV file; expected one for each subject, such as anatomy_val.csv")
    return split(row for subject in found for row in mmlu_rows(subject))


def mmlu_rows(file: Path) -> Iterable[dict[str, Any]]:
    """The questions of one subject."""
    subject = file.stem.rpartition("_")[0].replace("_", " ")
    if not subject:
        raise LofitError(f"{file}: got a name without _; expected <subject>_<split>.csv")
    for number, cells in enumerate(csv.reader(StringIO(read_text(file), newline="")), 1):
        if len(cells) != 6 or cells[5] not in LETTERS[:4]:
            raise LofitError(f"{file}, row {number}: got {cells}; expected question, four choices, and A, B, C or D")
        question, *choices, answer = cells
        yield {"subject": subject, "question": question, "choices": choices, "answer": LETTERS.index(answer)}


def nq_open(*, files: str = FOLDER, file: str = FILES["nq_open_local"], **_: Any) -> dict[str, "Dataset"]:
    """NQ-open: JSON lines with `question` and a list of right answers, `answer`."""
    return split(
        {"question": field(row, place, "question"), "answer": field(row, place, "answer", list)}
        for place, row in read_json_lines(Path(files, file))
    )


def triviaqa(*, files: str = FOLDER, file: str = FILES["triviaqa_1k_local"], **_: Any) -> dict[str, "Dataset"]:
    """TriviaQA as FlashRAG writes it: JSON lines with `question` and all right answers, `golden_answers`."""
    return split(
        {
            "question": unquoted(field(row, place, "question")),
            "answer": {"aliases": field(row, place, "golden_answers", list)},
        }
        for place, row in read_json_lines(Path(files, file))
    )


def unquoted(text: str) -> str:
    """A text that was left as a cell of a CSV file, in quotes and with quotes doubled, as it was before."""
    if len(text) < 2 or not (text[0] == text[-1] == '"') or '""' not in text[1:-1]:
        return text
    return text[1:-1].replace('""', '"')


def arc(*, files: str = FOLDER, file: str = FILES["arc_challenge_local"], **_: Any) -> dict[str, "Dataset"]:
    """ARC as LLM-Adapters writes it: a JSON list in which an instruction holds question and choices."""
    rows = []
    for place, row in read_json_items(Path(files, file)):
        found = parsed(row, place, ARC)
        choices = re.split(r" Answer\d: ", found["choices"])
        answers = [f"answer{number}" for number in range(1, len(choices) + 1)]
        key = LETTERS[one_of(row, place, answers)]
        listed = {"text": choices, "label": list(LETTERS[: len(choices)])}
        rows.append({"question": found["question"], "choices": listed, "answerKey": key})
    return split(rows)


def boolq(*, files: str = FOLDER, file: str = FILES["boolq_closed_book_local"], **_: Any) -> dict[str, "Dataset"]:
    """BoolQ as LLM-Adapters writes it: a JSON list of questions without the passage that answers them."""
    return split(
        {"question": parsed(row, place, BOOLQ)["question"], "label": one_of(row, place, TRUTHS)}
        for place, row in read_json_items(Path(files, file))
    )


def svamp(*, files: str = FOLDER, file: str = FILES["svamp_local"], **_: Any) -> dict[str, "Dataset"]:
    """SVAMP: a JSON list with `Body`, `Question` and the number that answers, `Answer`."""
    rows = []
    for place, row in read_json_items(Path(files, file)):
        try:
            number = float(row["Answer"])
        except (KeyError, TypeError, ValueError):
            raise LofitError(f"{place}: field 'Answer' is {row.get('Answer')!r}; expected a number") from None
        body, question = (field(row, place, name).strip() for name in ("Body", "Question"))
        rows.append({"body": body, "question": question, "answer": f"{number:g}"})
    return split(rows)


def parsed(row: dict[str, Any], place: Place, pattern: re.Pattern) -> dict[str, str]:
    """The parts of an instruction of LLM-Adapters."""
    text = field(row, place, "instruction")
    if (found := pattern.fullmatch(text)) is None:
        raise LofitError(f"{place}: field 'instruction' is {text[:60]!r}...; expected {pattern.pattern[:60]!r}...")
    return found.groupdict()


def one_of(row: dict[str, Any], place: Place, answers: Iterable[str]) -> int:
    """Which of the answers a row says is right."""
    known = list(answers)
    answer = field(row, place, "answer")
    if answer not in known:
        raise LofitError(f"{place}: field 'answer' is {answer!r}; expected {', '.join(known)}")
    return known.index(answer)


def split(rows: Iterable[dict[str, Any]]) -> dict[str, "Dataset"]:
    """The rows as lm-eval takes them."""
    from datasets import Dataset

    return {"test": Dataset.from_list(list(rows))}
