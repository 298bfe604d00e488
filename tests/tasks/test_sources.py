"""Published files: what is wrong with one is said in one line that names the place."""

import json

import pytest

from lofit.errors import LofitError
from lofit.tasks.record import (
    Metric,
    Objective,
    Record,
    read_metric,
    read_objective,
    read_records,
    write_records,
)
from lofit.tasks.source import Place, field, read_csv_rows, read_json_items, read_json_lines

READERS = {
    "rows.csv": lambda file: read_csv_rows(file, columns=["A", "B"]),
    "items.json": read_json_items,
    "lines.jsonl": read_json_lines,
}


def test_csv_rows_know_their_lines(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_bytes(b'A,B,C\r\n1,"2, ""two""",3\r\n"x\ny",5,6\r\n7,8,9')
    assert read_csv_rows(file, columns=["A", "B"]) == [
        (Place(str(file), 2), {"A": "1", "B": '2, "two"', "C": "3"}),
        (Place(str(file), 3), {"A": "x\ny", "B": "5", "C": "6"}),
        (Place(str(file), 5), {"A": "7", "B": "8", "C": "9"}),
    ]


def test_json_items_know_their_numbers_and_json_lines_their_lines(tmp_path):
    (tmp_path / "items.json").write_text('[{"a": 1},\n {"a": 2}]')
    (tmp_path / "lines.jsonl").write_text('{"a": 1}\n\n{"a": "one\u2028line"}\n')
    assert read_json_items(tmp_path / "items.json")[1] == (Place(f"{tmp_path}/items.json", 2, "item"), {"a": 2})
    assert read_json_lines(tmp_path / "lines.jsonl") == [
        (Place(f"{tmp_path}/lines.jsonl", 1), {"a": 1}),
        (Place(f"{tmp_path}/lines.jsonl", 3), {"a": "one\u2028line"}),
    ]


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ": no such file"),
        (b"", ": empty; expected at least one example"),
        (b" \n\n", ": empty; expected at least one example"),
        (b"\xef\xbb\xbf \n", ": empty; expected at least one example"),
        (b"\xff\xfeA", ", line 1: byte 0x41 is not UTF-16"),
        (b"A,B\n1,2\n3,\xe9\n", ", line 3: byte 0xe9 is not UTF-8"),
    ],
)
def test_a_file_that_is_not_text_is_refused(tmp_path, name, content, words):
    refuse(tmp_path / name, content, words)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("rows.csv", b"A,C\n1,2\n", ", line 1: no column B; got A, C"),
        ("rows.csv", b"C\n1\n", ", line 1: no column A, B; got C"),
        ("rows.csv", b"A,B\n", ": a header without rows"),
        ("rows.csv", b"A,B\n1,2\n3\n", ", line 3: got 1 columns; expected 2"),
        ("rows.csv", b"A,B\n1,2\n3,4,5\n", ", line 3: got 3 columns; expected 2"),
        ("rows.csv", b'A,B\n1,2\n3,"cut sho', ", line 3: cut short or not CSV"),
        ("rows.csv", b'A,B\n1,"2"3\n', ", line 2: cut short or not CSV"),
        ("rows.csv", b'A,B\n"x\ny",2\n3\n', ", line 4: got 1 columns"),
        ("items.json", b'[{"a": 1},\n {"a": ', ", line 2: cut short or not JSON"),
        ("items.json", b'{"a": 1}', ": not a JSON list of objects"),
        ("items.json", b"[]", ": not a JSON list of objects"),
        ("items.json", b'[{"a": 1}, 2]', ": not a JSON list of objects"),
        ("lines.jsonl", b'{"a": 1}\n{"a": ', ", line 2: cut short or not JSON"),
        ("lines.jsonl", b'{"a": 1}\n[1]\n', ", line 2: got '[1]'; expected a JSON object"),
        ("lines.jsonl", b'[{"a": 1}]', ", line 1: got '[{"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path, name, content, words):
    refuse(tmp_path / name, content, words)


def test_a_header_that_is_cut_short_is_refused(tmp_path):
    refuse(tmp_path / "rows.csv", b'A,"B\n1,2\n', ", line 1: cut short or not CSV")


def test_empty_lines_of_a_csv_file_are_counted(tmp_path):
    refuse(tmp_path / "rows.csv", b"A,B\n\n\n1\n", ", line 4: got 1 columns")


def test_a_column_that_stands_twice_is_refused(tmp_path):
    refuse(tmp_path / "rows.csv", b"A,B,A\n1,2,3\n", ", line 1: ")


@pytest.mark.parametrize(
    ("path", "kind", "words"),
    [
        ("a.c", str, "FILE: no field 'a.c'; got a, b, n"),
        ("b.2", str, "FILE: no field 'b.2'"),
        ("b.x", str, "FILE: no field 'b.x'"),
        ("n.a", str, "FILE: no field 'n.a'"),
        ("n", str, "FILE: field 'n' is 7; expected a text"),
        ("a", list, "FILE: field 'a' is {'b': 'deep'}; expected a list"),
    ],
)
def test_a_field_that_is_missing_or_of_another_type_is_refused(path, kind, words):
    row = {"a": {"b": "deep"}, "b": ["x", "y"], "n": 7}
    assert field(row, "FILE", "a.b") == "deep" and field(row, "FILE", "b.1") == "y"
    with pytest.raises(LofitError) as refusal:
        field(row, "FILE", path, kind)
    assert str(refusal.value).startswith(words)


def test_records_and_their_aims_survive_their_folder(tmp_path):
    objective = Objective("dpo", reference="initial")
    metric = Metric("multiple_choice", "lofit", after="A:", stops=("\n", "."), strip=False)
    records = [
        Record("1", "Q: é\u2028 A:", " no", " yes", correct=(" no",), incorrect=(" yes", " maybe"), aliases=("nope",)),
        Record("2", "Q: A:", " no"),
        Record("3", "Q: A:", " no", scoring_prompt="Six.\n\nQ: A:", fold=1),
    ]
    write_records(tmp_path, objective, metric, {"train": records, "test": records[:1]})
    assert (read_objective(tmp_path), read_metric(tmp_path)) == (objective, metric)
    assert read_records(tmp_path, "train") == records and read_records(tmp_path, "test") == records[:1]
    assert json.loads((tmp_path / "train.jsonl").read_text().split("\n")[1]) == {
        "id": "2",
        "prompt": "Q: A:",
        "completion": " no",
    }


def test_a_split_that_was_not_written_is_named(tmp_path):
    with pytest.raises(LofitError, match=r"val.jsonl: no such file; expected a folder written by preprocess"):
        read_records(tmp_path, "val")


# ---------------------------------------------------------------------------------------------------------- helpers


def refuse(file, content, words):
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(LofitError) as refusal:
        READERS[file.name](file)
    assert str(refusal.value).startswith(f"{file}{words}")
    assert "\n" not in str(refusal.value)
