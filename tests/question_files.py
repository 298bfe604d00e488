"""A few questions of each kind in the files of `lofit.tasks.question_files`."""

import json
from pathlib import Path

MMLU = {
    "anatomy": [
        ["Where is the heart?", "Chest", "Head", "Knee", "Foot", "A"],
        ["Say, two", "a", "b", "c, d", "e", "C"],
    ],
    "high_school_biology": [[" Which is a cell? ", "rock", "neuron", "rain", "light", "B"]],
    "us_foreign_policy": [["Who signs?", "w", "x", "y", "z", "D"], ["When?", "1", "2", "3", "4", "B"]],
}
"""By subject: question, choices, answer."""
NQ = [("who wrote it", ["Bobby Scott", "Bob Russell"]), ("when was that", ["14 December 1972 UTC", "1972"])]
TRIVIA = [("Who said that?", ["Mark Twain", "Twain"]), ("In which city is it", ["St. Louis"])]
CHOICES = [("What turns?", ["The Earth", "A wall", "Some ice"], 2), ("What falls?", ["Rain", "Sand", "Light", "Us"], 0)]
BOOLS = [("is water wet", True), ("can pigs fly", False)]
SUMS = [("A pack costs 76 dollars", "How much are two packs?", 152.0), ("He had 3.", "How many?", 2.5)]


def write_question_files(folder: Path) -> Path:
    """Write them all below `folder`, where the tasks look for them."""
    for subject, rows in MMLU.items():
        lines = [",".join(f'"{cell}"' if "," in cell else cell for cell in row) for row in rows]
        write(folder / f"mmlu/val/{subject}_val.csv", "\n".join(lines) + "\n")
    write_lines(
        folder / "nq_open/NQ-open.dev.jsonl", [{"question": question, "answer": answers} for question, answers in NQ]
    )
    write_lines(
        folder / "triviaqa_1k/test.jsonl",
        [{"id": "test_1", "question": question, "golden_answers": answers} for question, answers in TRIVIA],
    )
    write(folder / "llm_adapters/ARC-Challenge/test.json", json.dumps([arc_item(*item) for item in CHOICES]))
    write(folder / "llm_adapters/boolq/test.json", json.dumps([boolq_item(*item) for item in BOOLS]))
    sums = [{"ID": "chal-1", "Body": body, "Question": question, "Answer": answer} for body, question, answer in SUMS]
    write(folder / "svamp/SVAMP.json", json.dumps(sums))
    return folder


def arc_item(question: str, choices: list[str], right: int) -> dict:
    listed = " ".join(f"Answer{number}: {choice}" for number, choice in enumerate(choices, 1))
    words = "/".join(f"answer{number}" for number in range(1, len(choices) + 1))
    text = f"Please choose the correct answer to the question: {question}\n\n{listed}\n\nAnswer format: {words}"
    return {"instruction": text, "answer": f"answer{right + 1}"}


def boolq_item(question: str, truth: bool) -> dict:
    asked = f"Please answer the following question with true or false, question: {question}?"
    return {"instruction": f"{asked}\n\nAnswer format: true/false", "answer": str(truth).lower()}


def write_lines(file: Path, rows: list[dict]) -> None:
    write(file, "".join(json.dumps(row) + "\n" for row in rows))


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
