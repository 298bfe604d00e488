"""True and false completions of records, and where tasks without wrong answers take them from."""

import json

import pytest

from lofit import LofitError, Record
from lofit.tasks import clutrr, mquake
from lofit.tasks.contrasts import contrasts
from lofit.tasks.plain import shape_of_record
from lofit.tasks.record import Options

EDIT = {
    "case_id": 149,
    "requested_rewrite": [{"prompt": "{} was created in", "subject": "SMAP", "target_new": {"str": "Norway"}}],
    "questions": ["What is the capital of SMAP's country?"],
    "answer": "Tokyo",
    "new_answer": "Oslo",
    "new_answer_alias": ["Kristiania"],
}


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (
            Record("1", "Q:", " no", " yes", correct=(" no", " never", " no"), incorrect=(" yes", " maybe", " yes")),
            ((" no", " never"), (" yes", " maybe")),
        ),
        (Record("1", "Q:", " no", " yes"), ((" no",), (" yes",))),
        (Record("1", "Q:", " a dog", correct=(" a dog",), incorrect=(" a cat",)), ((" a dog",), (" a cat",))),
        (Record("1", "Q:", " Oslo", aliases=("x",), contrast=(" Tokyo",)), ((" Oslo",), (" Tokyo",))),
    ],
)
def test_every_record_with_a_wrong_answer_has_both_sides(record, expected):
    assert contrasts(record) == expected


def test_a_completion_alone_is_refused_with_the_data_that_would_do():
    with pytest.raises(LofitError, match=r"^record 7: got a completion and no wrong answer; expected .*chosen.*choic"):
        contrasts(Record("7", "hot", " cold", aliases=(" cool",)))


def test_a_contrast_does_not_change_what_a_record_is_and_survives_its_file():
    record = Record("1", "Q:", " Oslo", contrast=(" Tokyo",))
    assert shape_of_record(record) == "completion"
    assert Record.from_json(json.loads(json.dumps(record.to_json()))) == record
    assert "contrast" not in Record("1", "Q:", " Oslo").to_json()


@pytest.mark.parametrize(("protocol", "blank"), [("clean", " "), ("lofit", "")])
def test_mquake_contrasts_the_answer_from_before_the_edit(tmp_path, protocol, blank):
    assert mquake_contrast(tmp_path, EDIT, protocol) == (f"{blank}Tokyo",)
    without = {key: value for key, value in EDIT.items() if key != "answer"}
    for row in (without, {**EDIT, "answer": None}, {**EDIT, "answer": "oslo "}, {**EDIT, "answer": "Kristiania"}):
        assert mquake_contrast(tmp_path, row, protocol) == ()


@pytest.mark.parametrize("answer", [3, " "])
def test_mquake_refuses_an_earlier_answer_that_is_no_text(tmp_path, answer):
    with pytest.raises(LofitError, match=r"test\.jsonl, line 1: field 'answer' is .*; expected a text"):
        mquake_contrast(tmp_path, {**EDIT, "answer": answer}, "clean")


def test_clutrr_draws_another_relation_by_seed_and_id(tmp_path):
    targets = [clutrr.RELATIONS[number % 18] for number in range(180)] + ["Brother"]
    drawn = {(seed, protocol): clutrr_records(tmp_path, targets, seed, protocol) for seed, protocol in CASES}
    for records in drawn.values():
        for record in records:
            (other,) = record.contrast
            assert other in clutrr.RELATIONS and other != record.completion.lower()
        # Every relation comes up, and no record's draw is its neighbour's.
        assert {record.contrast[0] for record in records} == set(clutrr.RELATIONS)
    of = {case: [record.contrast for record in records] for case, records in drawn.items()}
    assert of[1, "clean"] == of[1, "lofit"] != of[2, "clean"]
    # A draw is the record's own, whatever stands around it.
    again = clutrr_records(tmp_path, targets[:5], 1, "clean")
    assert [record.contrast for record in again] == of[1, "clean"][:5]


CASES = [(1, "clean"), (1, "lofit"), (2, "clean")]


def mquake_contrast(folder, row, protocol):
    (folder / "test.jsonl").write_text(json.dumps(row) + "\n")
    (record,) = mquake.load(folder, "test", Options(protocol=protocol))
    return record.contrast


def clutrr_records(folder, targets, seed, protocol):
    story = {"clean_story": "[Roy] met [Anna].", "query": "('Anna', 'Roy')"}
    rows = [{**story, "id": f"a-{number}", "target_text": target} for number, target in enumerate(targets)]
    (folder / "test.json").write_text(json.dumps(rows))
    return clutrr.load(folder, "test", Options(seed=seed, protocol=protocol))
