"""Question files on disk, in the columns of lm-eval's tasks; and broken ones."""

import json
import re

import pytest
from question_files import BOOLS, CHOICES, MMLU, NQ, SUMS, TRIVIA, arc_item, write, write_question_files

from lofit.errors import LofitError
from lofit.tasks import question_files
from lofit.tasks.question_files import FILES, unquoted

pytest.importorskip("datasets", reason="datasets is not installed: pip install -e '.[pipeline]'")

LOADERS = {
    "mmlu_val_local": "mmlu",
    "nq_open_local": "nq_open",
    "triviaqa_1k_local": "triviaqa",
    "arc_challenge_local": "arc",
    "boolq_closed_book_local": "boolq",
    "svamp_local": "svamp",
}


def rows_of(name, folder, **options):
    # lm-eval hands over the task's metadata, too.
    return list(getattr(question_files, LOADERS[name])(files=str(folder), version=1.0, **options)["test"])


def test_each_file_is_read_whole_and_in_order(tmp_path):
    folder = write_question_files(tmp_path)
    assert set(LOADERS) == set(FILES)
    found = {name: rows_of(name, folder) for name in FILES}
    assert found["mmlu_val_local"] == [
        {"subject": subject.replace("_", " "), "question": row[0], "choices": row[1:5], "answer": "ABCD".index(row[5])}
        for subject in sorted(MMLU)
        for row in MMLU[subject]
    ]
    assert found["nq_open_local"] == [{"question": question, "answer": answers} for question, answers in NQ]
    assert [(row["question"], row["answer"]["aliases"]) for row in found["triviaqa_1k_local"]] == TRIVIA
    assert [
        (row["question"], row["choices"]["text"], row["choices"]["label"].index(row["answerKey"]))
        for row in found["arc_challenge_local"]
    ] == CHOICES
    assert [(row["question"], bool(row["label"])) for row in found["boolq_closed_book_local"]] == BOOLS
    assert [(row["body"], row["question"], float(row["answer"])) for row in found["svamp_local"]] == SUMS
    assert [row["answer"] for row in found["svamp_local"]] == ["152", "2.5"]


def test_another_file_of_the_same_format_is_read_where_a_task_says_so(tmp_path):
    write(tmp_path / "mmlu/test/anatomy_test.csv", "Q,a,b,c,d,D\n")
    (row,) = rows_of("mmlu_val_local", tmp_path, file="mmlu/test")
    assert (row["subject"], row["answer"]) == ("anatomy", 3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"Who wrote ""A cauliflower""?"', 'Who wrote "A cauliflower"?'),
        ('""Hello"" was said by whom?', '""Hello"" was said by whom?'),
        ('"Hello"', '"Hello"'),
        ('"', '"'),
        ("Who?", "Who?"),
    ],
)
def test_only_a_cell_of_a_csv_file_loses_its_quotes(text, expected):
    assert unquoted(text) == expected


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("nq_open_local", '{"question": "who"}\n', "line 1: no field 'answer'"),
        ("nq_open_local", '{"question": "who", "answer": "me"}\n', "expected a list"),
        ("triviaqa_1k_local", '{"question": "who", "answer": ["me"]}\n', "no field 'golden_answers'"),
        ("arc_challenge_local", json.dumps([{"instruction": "What?", "answer": "answer1"}]), "item 1: .*What"),
        (
            "arc_challenge_local",
            json.dumps([{**arc_item("What?", ["a", "b"], 0), "answer": "answer3"}]),
            "'answer3'; expected answer1, answer2",
        ),
        ("boolq_closed_book_local", json.dumps([{"instruction": "is it?", "answer": "true"}]), "item 1: .*is it"),
        ("svamp_local", json.dumps([{"Body": "b", "Question": "q", "Answer": "many"}]), "'many'; expected a number"),
    ],
)
def test_a_broken_file_is_told_with_the_place(tmp_path, name, text, said):
    write(tmp_path / FILES[name], text)
    with pytest.raises(LofitError, match=re.compile(said, re.DOTALL)) as caught:
        rows_of(name, tmp_path)
    assert len(str(caught.value).splitlines()) == 1 and FILES[name] in str(caught.value)


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("anatomy_val.csv", "Q,a,b,c,A\n", "row 1: got .*; expected question, four choices, and A, B, C or D"),
        ("anatomy_val.csv", "Q,a,b,c,d,A\nQ,a,b,c,d,E\n", "row 2"),
        ("anatomy.csv", "Q,a,b,c,d,A\n", "expected <subject>_<split>.csv"),
        ("notes.txt", "nothing", "no CSV file"),
    ],
)
def test_a_broken_folder_of_subjects_is_told_with_the_place(tmp_path, file, text, said):
    write(tmp_path / "mmlu/val" / file, text)
    with pytest.raises(LofitError, match=said):
        rows_of("mmlu_val_local", tmp_path)
