"""The three tasks to the letter, in both protocols."""

import csv
import json

import pytest

from lofit.errors import LofitError
from lofit.tasks import clutrr, mquake, preprocess, truthfulqa
from lofit.tasks.record import Judgement, read_judgement, read_records

PIGS = {
    "Question": "Can pigs fly?",
    "Best Answer": "No, pigs cannot fly",
    "Correct Answers": "No; No, pigs cannot fly ; ",
    "Incorrect Answers": "Yes, pigs can fly; Yes",
}
EDIT = {
    "case_id": 149,
    "requested_rewrite": [
        {
            "prompt": "{} was created in",
            "subject": "SMAP",
            "target_new": {"str": "Norway"},
            "target_true": {"str": "Japan"},
        }
    ],
    "questions": ["What is the capital of SMAP's country?", "Another one?"],
    "answer": "Tokyo",
    "new_answer": "Oslo",
    "new_answer_alias": ["Kristiania", "City of Oslo"],
}
STORY = {
    "id": "a-1",
    "clean_story": "[Roy] met his sister [Anna] in town. They had tea.",
    "query": "('Anna', 'Roy')",
    "target_text": "brother",
    "target": 3,
}
STORY_PROMPT = (
    'Read the following story about a family. "Roy met his sister Anna in town. They had tea." Assume the relations '
    "described in the story are all true. Based on relations between the fictional characters in the story (assume "
    "the relations are all true) and your commonsense knowledge about family relationship, how is {} related to Anna? "
    "Answer: {} is Anna 's\n"
)


def test_truthfulqa_is_a_pair_and_its_answers(tmp_path):
    (record,) = load(truthfulqa, tmp_path, PIGS)
    assert record.prompt == "Q: Can pigs fly? A:"
    assert (record.completion, record.rejected) == (" No, pigs cannot fly", " Yes, pigs can fly")
    assert record.correct == (" No, pigs cannot fly", " No")
    assert record.incorrect == (" Yes, pigs can fly", " Yes")


def test_truthfulqa_has_one_protocol(tmp_path):
    assert truthfulqa.judgement("clean") == Judgement("dpo", "multiple_choice", "clean")
    with pytest.raises(LofitError, match=r"preprocess\.protocol: met 'lofit'; allowed for truthfulqa: 'clean'"):
        truthfulqa.judgement("lofit")


def test_truthfulqa_reads_the_fold_it_is_told(tmp_path):
    write(truthfulqa, tmp_path, "train", [PIGS], fold=1)
    assert len(truthfulqa.load(tmp_path, "train", protocol="clean", fold=1)) == 1
    with pytest.raises(LofitError, match=r"fold_0_train_seed_42\.csv: no such file"):
        truthfulqa.load(tmp_path, "train", protocol="clean", fold=0)


@pytest.mark.parametrize("column", ["Question", "Best Answer", "Correct Answers", "Incorrect Answers"])
def test_truthfulqa_refuses_an_empty_cell(tmp_path, column):
    for empty in ("", " ; "[: 1 if column in ("Question", "Best Answer") else 3]):
        with pytest.raises(LofitError, match=f"fold_0_test_seed_42.csv, line 3: column '{column}' is empty"):
            load(truthfulqa, tmp_path, PIGS, {**PIGS, column: empty})


@pytest.mark.parametrize(("protocol", "completion"), [("clean", " Oslo"), ("lofit", "Oslo")])
def test_mquake_asks_under_an_edit(tmp_path, protocol, completion):
    (record,) = load(mquake, tmp_path, EDIT, protocol=protocol)
    assert record.prompt == ("Q: Imagine that SMAP was created in Norway. What is the capital of SMAP's country? A:")
    assert (record.id, record.completion, record.aliases) == ("149", completion, ("Kristiania", "City of Oslo"))
    judgement = mquake.judgement(protocol)
    assert (judgement.objective, judgement.metric, judgement.stops) == ("cross_entropy", "exact_match", ("\n",))
    assert judgement.strip == (protocol == "clean")


@pytest.mark.parametrize(("protocol", "person"), [("clean", "Roy"), ("lofit", " Roy")])
def test_clutrr_tells_a_story_without_brackets(tmp_path, protocol, person):
    (record,) = load(clutrr, tmp_path, STORY, protocol=protocol)
    assert record.prompt == STORY_PROMPT.format(person, person)
    assert (record.id, record.completion) == ("a-1", "brother")
    judgement = clutrr.judgement(protocol)
    assert (judgement.objective, judgement.metric, judgement.strip) == ("cross_entropy", "exact_match", True)
    assert judgement.stops == (("\n", ".") if protocol == "clean" else (".",))


@pytest.mark.parametrize("query", ["(Anna, Roy)", "('Anna','Roy')", "('Anna', 'Roy', 'Tom')", "('', 'Roy')"])
def test_clutrr_refuses_a_query_of_another_form(tmp_path, query):
    with pytest.raises(LofitError, match=r"test.json, item 2: field 'query' is .*; allowed: \"\('A', 'B'\)\""):
        load(clutrr, tmp_path, STORY, {**STORY, "query": query})


@pytest.mark.parametrize(
    ("task", "row", "change", "words"),
    [
        (mquake, EDIT, {"case_id": "149"}, "test.jsonl, line 2: field 'case_id' is '149'; allowed: a int"),
        (mquake, EDIT, {"questions": []}, "test.jsonl, line 2: no field 'questions.0'"),
        (mquake, EDIT, {"requested_rewrite": [{}]}, "test.jsonl, line 2: no field 'requested_rewrite.0.prompt'"),
        (mquake, EDIT, {"new_answer": None}, "test.jsonl, line 2: field 'new_answer' is None; allowed: a str"),
        (
            mquake,
            EDIT,
            {"new_answer_alias": "Oslo"},
            "test.jsonl, line 2: field 'new_answer_alias' is 'Oslo'; allowed: a list",
        ),
        (clutrr, STORY, {"target_text": 3}, "test.json, item 2: field 'target_text' is 3; allowed: a str"),
        (clutrr, STORY, {"clean_story": None}, "test.json, item 2: field 'clean_story' is None; allowed: a str"),
    ],
)
def test_a_field_of_another_type_is_refused_with_its_place(tmp_path, task, row, change, words):
    with pytest.raises(LofitError) as refusal:
        load(task, tmp_path, row, {**row, **change})
    assert str(refusal.value).startswith(f"{tmp_path}/{words}")


@pytest.mark.parametrize(
    ("task", "row", "key"),
    [(mquake, EDIT, key) for key in ("case_id", "requested_rewrite", "questions", "new_answer", "new_answer_alias")]
    + [(clutrr, STORY, key) for key in ("id", "clean_story", "query", "target_text")],
)
def test_a_field_that_is_missing_is_refused_with_its_place(tmp_path, task, row, key):
    with pytest.raises(LofitError, match=rf"test.jsonl?, (line|item) 2: no field '{key}"):
        load(task, tmp_path, row, {name: value for name, value in row.items() if name != key})


@pytest.mark.parametrize("column", ["Question", "Best Answer", "Correct Answers", "Incorrect Answers"])
def test_a_column_that_is_missing_is_refused(tmp_path, column):
    with pytest.raises(LofitError, match=f"fold_0_test_seed_42.csv, line 1: no column {column}; met "):
        load(truthfulqa, tmp_path, {name: value for name, value in PIGS.items() if name != column})


def test_mquake_refuses_an_alias_that_is_no_text(tmp_path):
    with pytest.raises(LofitError, match=r"test\.jsonl, line 2: field 'new_answer_alias"):
        load(mquake, tmp_path, EDIT, {**EDIT, "new_answer_alias": ["Oslo", 7]})


@pytest.mark.parametrize(
    ("task", "row", "change"),
    [
        (mquake, EDIT, {"new_answer": ""}),
        (mquake, EDIT, {"new_answer_alias": ["Oslo", ""]}),
        (clutrr, STORY, {"target_text": " "}),
    ],
)
def test_an_empty_answer_is_refused(tmp_path, task, row, change):
    with pytest.raises(LofitError, match=r"test.jsonl?, (line|item) 2: field "):
        load(task, tmp_path, row, {**row, **change})


def test_preprocessing_writes_every_split_and_its_judgement(tmp_path):
    counts = run_mquake(tmp_path, train=6)
    assert counts == {"train": 6, "val": 2, "test": 1}
    out = tmp_path / "out"
    assert read_judgement(out) == mquake.judgement("clean")
    assert [len(read_records(out, split)) for split in counts] == [6, 2, 1]
    assert [record.id for record in read_records(out, "train")] == ["0", "1", "2", "3", "4", "5"]


def test_training_examples_are_drawn_by_the_seed_and_the_others_stay(tmp_path):
    drawn = {}
    for seed in (1, 1, 2):
        assert run_mquake(tmp_path, train=50, train_size=10, seed=seed) == {"train": 10, "val": 2, "test": 1}
        ids = [record.id for record in read_records(tmp_path / "out", "train")]
        assert len(set(ids)) == 10 and drawn.setdefault(seed, ids) == ids
    assert drawn[1] != drawn[2]


def test_a_draw_of_more_than_there_are_takes_all_in_their_order(tmp_path):
    assert run_mquake(tmp_path, train=4, train_size=4)["train"] == 4
    assert run_mquake(tmp_path, train=4, train_size=9)["train"] == 4
    assert [record.id for record in read_records(tmp_path / "out", "train")] == ["0", "1", "2", "3"]


def test_nothing_is_written_where_one_split_is_faulty(tmp_path):
    with pytest.raises(LofitError, match=r"test\.jsonl: no such file"):
        run_mquake(tmp_path, train=4, test=0)
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------------------------------------------- helpers


def write(task, folder, split, rows, *, fold=0):
    folder.mkdir(exist_ok=True)
    if task is truthfulqa:
        with (folder / f"fold_{fold}_{split}_seed_42.csv").open("w", newline="") as opened:
            writer = csv.DictWriter(opened, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif task is mquake:
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        (folder / f"{split}.json").write_text(json.dumps(rows))


def load(task, folder, *rows, protocol="clean"):
    write(task, folder, "test", rows)
    return task.load(folder, "test", protocol=protocol, fold=0)


def run_mquake(folder, *, train, test=1, train_size=None, seed=0):
    for split, count in (("train", train), ("val", 2), ("test", test)):
        if count:
            write(mquake, folder / "raw", split, [{**EDIT, "case_id": number} for number in range(count)])
    return preprocess(
        "mquake", folder / "raw", folder / "out", protocol="clean", fold=0, train_size=train_size, seed=seed
    )
