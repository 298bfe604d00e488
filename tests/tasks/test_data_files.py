"""Data files as people have them."""

import gzip
import json

import pyarrow
import pytest
from pyarrow import parquet

from lofit.errors import LofitError
from lofit.tasks import jsonl
from lofit.tasks.record import Options
from lofit.tasks.rows import read_rows
from lofit.tasks.source import ORIGIN

PAIRS = [{"prompt": "hot", "completion": "cold"}, {"prompt": "groß", "completion": "klein"}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in PAIRS)
TABLE = "prompt,completion\nhot,cold\ngroß,klein\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", LINES.encode()),
        ("a.JSONL", LINES.replace("\n", "\r\n").encode()),
        ("a.jsonl", b"\xef\xbb\xbf" + LINES.encode()),
        ("a.jsonl", LINES.encode("utf-16")),
        ("a.json", LINES.encode()),
        ("a.json", json.dumps(PAIRS, indent=1).encode()),
        ("a.json", ("\ufeff\n" + json.dumps(PAIRS)).encode()),
        ("a.csv", TABLE.encode()),
        ("A.CSV", b"\xef\xbb\xbf" + TABLE.encode()),
        ("a.csv", TABLE.replace(",", ";").encode()),
        ("a.csv", TABLE.replace(",", "\t").encode("utf-16")),
        ("a.tsv", TABLE.replace(",", "\t").encode()),
        ("a.csv", TABLE.replace(",", ";").replace("\n", "\r").encode()),
        ("a.csv", 'prompt;"completion"\r\nhot;cold\r\ngroß;klein\r\n'.encode()),
        # Workers of pytest-xdist have to name the tests alike, and a time of day would stand in the name.
        ("a.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)),
        ("a.csv.GZ", gzip.compress(TABLE.encode(), mtime=0)),
    ],
)
def test_what_programs_write_is_read(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert [row for _, row in read_rows(tmp_path / name)] == PAIRS


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)[:-12], "mine: cut short or not gzip"),
        ("a.jsonl.gz", LINES.encode(), "mine: cut short or not gzip"),
        ("a.jsonl", b'{"a": "1", "b": 2, "a": "3"}', "mine, line 1: key 'a' stands twice; expected plain JSON"),
        ("a.json", b'[{"x": {"a": 1, "a": 1}}]', "mine: key 'a' stands twice"),
        ("a.jsonl", b'{"a": Infinity}', "mine, line 1: got the number Infinity; expected plain JSON"),
        ("a.jsonl", b'{"a": ' + b"9" * 5000 + b"}", "mine, line 1: Exceeds the limit (4300 digits)"),
        ("a.jsonl", b'{"a": ' + b"[" * 100_000 + b"}", "mine, line 1: "),
        ("a.json", b'{"version": 1, "data": [{}]}', "mine: not a JSON list of objects; its field 'data' holds a list"),
        ("a.json", b'{"prompt": ["a"], "completion": ["b"]}', "mine: not a JSON list of objects"),
        ("a.jsonl", b"{'a': 1}", "mine, line 1: cut short or not JSON"),
        ("a.jsonl", b'{"a": 1},\n{"a": 2}', "mine, line 1: cut short or not JSON (Extra data at column 9)"),
        ("a.csv", b"a;b;c\n1;2\n", "mine, line 2: got 2 columns; expected 3"),
        ("a.parquet", b"PAR1", "mine: cut short or not Parquet"),
        ("a.xlsx", b"", "mine: got another ending; expected .jsonl"),
    ],
)
def test_what_cannot_be_read_is_one_line_with_the_users_name_for_the_file(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    (tmp_path / ORIGIN).write_text(json.dumps({name: "mine"}))
    with pytest.raises(LofitError) as refusal:
        read_rows(tmp_path / name)
    assert str(refusal.value).startswith(words) and "\n" not in str(refusal.value)


def test_a_comma_in_a_header_of_one_column_with_semicolons_in_its_cells_stays_one_table(tmp_path):
    (tmp_path / "a.csv").write_text("prompt,completion\nhot;warm,cold\n")
    assert [row for _, row in read_rows(tmp_path / "a.csv")] == [{"prompt": "hot;warm", "completion": "cold"}]


def test_whole_numbers_that_a_data_frame_made_floats_are_whole_again(tmp_path):
    rows = [
        {"prompt": "a", "choices": ["x", "y"], "answer": 1.0, "id": 3.0, "share": 0.5},
        {"prompt": "b", "choices": ["x", "y"], "answer": 0.0, "id": float("nan"), "share": 1.0},
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "train.parquet")
    (_, first), (_, second) = read_rows(tmp_path / "train.parquet")
    assert (first["answer"], first["id"], first["share"]) == (1, 3, 0.5) and isinstance(first["id"], int)
    assert (second["answer"], second["id"], second["share"]) == (0, None, 1.0)
    for split in ("val", "test"):
        (tmp_path / f"{split}.parquet").write_bytes((tmp_path / "train.parquet").read_bytes())
    records = jsonl.load(tmp_path, "test", Options(template="{prompt} {share}"))
    assert [record.id for record in records] == ["3", "test.parquet:2"]
    assert [record.completion for record in records] == [" y", " x"]
    assert [record.prompt for record in records] == ["a 0.5", "b 1.0"]


@pytest.mark.parametrize(
    ("line", "prompt"),
    [
        ('{"n": 1.10, "completion": "b"}', "n=1.10"),
        ('{"n": 12345678901234567890.10, "completion": "b"}', "n=12345678901234567890.10"),
        ('{"n": -0, "completion": "b"}', "n=0"),
        ('{"n": true, "completion": "b"}', "n=true"),
        ('{"n": 2e3, "completion": "b"}', "n=2E+3"),
    ],
)
def test_a_number_in_a_template_keeps_its_digits(tmp_path, line, prompt):
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}.jsonl").write_text(line)
    assert jsonl.load(tmp_path, "test", Options(template="n={n}"))[0].prompt == prompt


def test_nan_counts_as_absent(tmp_path):
    line = '{"prompt": "a", "completion": "b", "aliases": NaN, "id": NaN, "chosen": NaN}'
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}.jsonl").write_text(line)
    (record,) = jsonl.load(tmp_path, "test", Options())
    assert (record.id, record.aliases) == ("test.jsonl:1", ())
    with pytest.raises(LofitError, match=r"test.jsonl, line 1: no field 'id', which the template names"):
        jsonl.load(tmp_path, "test", Options(template="{id}"))


@pytest.mark.parametrize("text", ["a smile \\ud83d", "\\udc00 low", "two \\udc00\\ud800"])
@pytest.mark.parametrize("key", ["prompt", "completion", "id"])
def test_half_a_character_is_one_line(tmp_path, key, text):
    row = {"prompt": '"a"', "completion": '"b"', "id": '"1"', key: f'"{text}"'}
    line = "{" + ", ".join(f'"{name}": {value}' for name, value in row.items()) + "}"
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}.jsonl").write_text(line)
    with pytest.raises(LofitError, match=r"test.jsonl, line 1: holds half a character; expected whole Unicode"):
        jsonl.load(tmp_path, "test", Options())
    (tmp_path / "test.jsonl").write_text('{"prompt": "a \\ud83d\\ude00", "completion": "b"}')
    assert jsonl.load(tmp_path, "test", Options())[0].prompt == "a \N{GRINNING FACE}"


@pytest.mark.parametrize(
    ("choices", "answer", "right"),
    [([0, 1, 2], 0, " 0"), ([2, 3, 4], 0, " 2"), ([4, 5, 6], 6, " 6"), ([1.5, 2.5], 1, " 2.5"), ([2, 3], "B", " 3")],
)
def test_choices_may_be_numbers(tmp_path, choices, answer, right):
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}.jsonl").write_text(json.dumps({"prompt": "p", "choices": choices, "answer": answer}))
    assert jsonl.load(tmp_path, "test", Options())[0].completion == right


def test_a_number_that_is_the_index_of_one_choice_and_another_itself_is_refused(tmp_path):
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}.jsonl").write_text('{"prompt": "p", "choices": [2, 3, 1], "answer": 1}')
    with pytest.raises(LofitError, match=r"line 1: answer 1 is the index of one choice and the text of another"):
        jsonl.load(tmp_path, "test", Options())


def test_a_completion_may_be_a_number(tmp_path):
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}.jsonl").write_text('{"prompt": "2+2=", "completion": 4, "aliases": [4.0, "four"]}')
    (record,) = jsonl.load(tmp_path, "test", Options())
    assert (record.completion, record.aliases) == (" 4", ("4.0", "four"))
