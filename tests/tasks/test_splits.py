"""Examples that belong together, and examples that stand in two splits."""

import json

import pytest

from lofit.errors import LofitError
from lofit.tasks import jsonl, preprocess
from lofit.tasks.record import SPLITS, Options

RATIOS = {"val_ratio": 0.25, "test_ratio": 0.25}


def test_examples_that_stand_in_two_splits_are_counted_and_said(tmp_path, capsys):
    (tmp_path / "all.jsonl").write_text(rows(24, distinct=3))
    counts = preprocess("jsonl", tmp_path, tmp_path / "out", Options(**RATIOS))
    assert counts == {"train": 12, "val": 6, "test": 6, "repeated": 12}
    said = capsys.readouterr().err
    assert "warning: 6 of 6 val prompts stand in train, too" in said
    assert "warning: 6 of 6 test prompts stand in train or val, too" in said
    (tmp_path / "all.jsonl").write_text(rows(24, distinct=24))
    assert preprocess("jsonl", tmp_path, tmp_path / "out", Options(**RATIOS))["repeated"] == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("seed", [0, 1, 42])
def test_a_group_stays_in_one_split(tmp_path, seed):
    (tmp_path / "all.jsonl").write_text(rows(24, distinct=6))
    options = Options(**RATIOS, group="kind", seed=seed)
    kinds = {split: {record.prompt for record in jsonl.load(tmp_path, split, options)} for split in SPLITS}
    assert sum(map(len, kinds.values())) == len(set().union(*kinds.values())) == 6
    assert sum(len(jsonl.load(tmp_path, split, options)) for split in SPLITS) == 24
    assert preprocess("jsonl", tmp_path, tmp_path / "out", options)["repeated"] == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"group": "none"}, "all.jsonl, line 1: no text or number in field 'none', which group names"),
        ({"group": "same"}, "all.jsonl: 24 lines in 1 groups leave none for "),
    ],
)
def test_groups_that_cannot_be_split_are_one_line(tmp_path, options, words):
    (tmp_path / "all.jsonl").write_text(rows(24, distinct=6))
    with pytest.raises(LofitError) as refusal:
        jsonl.load(tmp_path, "test", Options(**RATIOS, **options))
    assert str(refusal.value).startswith(f"{tmp_path}/{words}")


def test_ids_that_are_all_the_same_can_be_left_aside(tmp_path):
    (tmp_path / "all.jsonl").write_text("".join(rows(12, distinct=12).replace('"same": 1', '"id": "row"')))
    with pytest.raises(LofitError, match=r"id 'row' stands in .* already; .* columns: \{id: null\} to make no use"):
        jsonl.load(tmp_path, "test", Options(**RATIOS))
    records = jsonl.load(tmp_path, "train", Options(**RATIOS, columns={"id": None}))
    assert len({record.id for record in records}) == 6
    records = jsonl.load(tmp_path, "train", Options(**RATIOS, columns={"id": "prompt"}))
    assert all(record.id == record.prompt for record in records)


def rows(count, *, distinct):
    kinds = [number % distinct for number in range(count)]
    return "".join(
        json.dumps({"prompt": f"question {kind}", "completion": "c", "kind": kind, "same": 1}) + "\n" for kind in kinds
    )
