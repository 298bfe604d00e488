"""One's own task: the three shapes of a line to the letter, and the splits."""

import json
from pathlib import Path

import pytest

from lofit.errors import LofitError
from lofit.tasks import jsonl
from lofit.tasks.record import Metric, Objective, Options, Record

EXAMPLES = Path(__file__).parents[2] / "data" / "examples"
COMPLETION = {"prompt": "hot", "completion": "cold"}
PAIR = {"prompt": "Hello?", "chosen": "Hi.", "rejected": "What."}
CHOICE = {"prompt": "Who barks?", "choices": ["a cat", "a dog", "a cow"], "answer": 1}
PINNED = {"train": [0, 1, 3, 4, 10, 11], "val": [6, 8, 9], "test": [2, 5, 7]}
"""The split of 12 lines by seed 42 and two ratios of 0.25; Python promises the same numbers, not the same shuffle."""
OPEN = {"prompt": "p", "completion": "c"}


def test_a_completion_is_written_after_a_blank_and_matched_exactly(tmp_path):
    record = one(tmp_path, {**COMPLETION, "aliases": ["chilly", "cool"]}, template="The opposite of {prompt} is")
    assert record == Record("test.jsonl:1", "The opposite of hot is", " cold", aliases=("chilly", "cool"))
    assert aimed(tmp_path) == (Objective("cross_entropy"), Metric("exact_match", "", stops=("\n",), strip=True))


def test_a_pair_has_both_halves_after_a_blank(tmp_path):
    assert one(tmp_path, PAIR) == Record("test.jsonl:1", "Hello?", " Hi.", " What.")
    assert aimed(tmp_path) == (Objective("dpo"), Metric("preference_accuracy", ""))


def test_of_choices_the_right_one_is_trained_and_the_others_keep_their_order(tmp_path):
    record = one(tmp_path, CHOICE)
    assert record == Record("test.jsonl:1", "Who barks?", " a dog", correct=(" a dog",), incorrect=(" a cat", " a cow"))
    assert aimed(tmp_path) == (Objective("cross_entropy"), Metric("accuracy", ""))


@pytest.mark.parametrize("row", [COMPLETION, PAIR, CHOICE])
def test_a_chat_template_decides_by_itself_how_an_answer_begins(tmp_path, row):
    record = one(tmp_path, row, chat=True)
    assert record.prompt == "" and record.turns == ({"role": "user", "content": row["prompt"]},)
    texts = [record.completion, record.rejected or "x", *record.correct, *record.incorrect]
    assert not any(text.startswith(" ") for text in texts)
    assert not one(tmp_path, row).turns


@pytest.mark.parametrize(
    ("prompt", "completion", "joined"),
    [
        ("Q:", "A", "Q: A"),
        ("Q: ", "A", "Q: A"),
        ("Q:\n", "A", "Q:\nA"),
        ("Q:", " A", "Q: A"),
        ("Q:", "\tA", "Q:\tA"),
        ("Q: ", " A", "Q:  A"),
        ("Q:\n  ", "A", "Q:\n  A"),
    ],
)
def test_one_blank_stands_between_prompt_and_completion_unless_there_is_white_space(
    tmp_path, prompt, completion, joined
):
    record = one(tmp_path, {"prompt": prompt, "completion": completion})
    assert record.prompt + record.completion == joined
    # A blank goes with the word behind it, as it does in tokens.
    assert record.prompt == prompt.rstrip(" ")


def test_a_blank_at_the_end_of_a_prompt_goes_to_each_of_its_answers(tmp_path):
    pair, choice = (one(tmp_path, {**row, "prompt": "Q: "}) for row in (PAIR, CHOICE))
    assert (pair.prompt, pair.completion, pair.rejected) == ("Q:", " Hi.", " What.")
    assert (choice.prompt, choice.correct, choice.incorrect) == ("Q:", (" a dog",), (" a cat", " a cow"))


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        ("{prompt}", "a {b} {{c}} {prompt}"),
        ("{{{prompt}}}:", "{a {b} {{c}} {prompt}}:"),
        ("{n}/{deep.texts.1}/{yes}", "7/{n}/true"),
        ("no field", "no field"),
    ],
)
def test_a_template_is_filled_once_from_the_fields_of_the_line(tmp_path, template, prompt):
    row = {"prompt": "a {b} {{c}} {prompt}", "n": 7, "deep": {"texts": ["x", "{n}"]}, "yes": True, "completion": "d"}
    assert one(tmp_path, row, template=template).prompt == prompt


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (
            "{question}",
            "FILE, line 1: no field 'question', which the template names; got prompt, completion, deep",
        ),
        ("{gap}", "FILE, line 1: no field 'gap', which the template names"),
        ("{deep.y}", "FILE, line 1: no field 'deep.y', which the template names"),
        ("{deep.x.9}", "FILE, line 1: no field 'deep.x.9', which the template names"),
        ("{deep}", "FILE, line 1: field 'deep' is a dict; expected in a template: text, number"),
        ("{blank}", "FILE, line 1: the prompt is blank"),
        (
            "{prompt",
            "template: got '{prompt' (expected",
        ),
        ("prompt}", "template: got 'prompt}' ("),
        ("{prompt:>9}", "template: got '{prompt:>9}' (a field has a name and no format)"),
        ("{prompt!r}", "template: got '{prompt!r}' (a field has a name and no format)"),
        ("{}", "FILE, line 1: no field '', which the template names"),
    ],
)
def test_a_template_that_cannot_be_filled_is_refused(tmp_path, template, words):
    row = {"prompt": "p", "completion": "c", "deep": {"x": ["y"]}, "gap": None, "blank": " "}
    refuse(tmp_path, [row], words, template=template)


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"q": "p", "answer": "c"}, {"completion": "answer"}),
        ({"q": "p", "answer": {"text": ["x", "c"]}, "choices": ["a"]}, {"completion": "answer.text.1"}),
        ({"q": "p", "completion": "c", "chosen": "x", "rejected": "y"}, {"completion": "completion"}),
    ],
)
def test_columns_say_which_field_is_the_completion_and_then_others_do_not_count(tmp_path, row, columns):
    assert one(tmp_path, row, columns=columns, template="{q}") == Record("test.jsonl:1", "p", " c")
    assert aimed(tmp_path, columns=columns)[1].kind == "exact_match"


def test_columns_reach_into_lists_and_blocks(tmp_path):
    row = {"prompt": "p", "good": [{"content": "p"}, {"content": "yes"}], "bad": "no"}
    record = one(tmp_path, row, columns={"chosen": "good.1.content", "rejected": "bad"})
    assert (record.completion, record.rejected) == (" yes", " no")
    row = {"prompt": "p", "choices": {"text": ["no", "yes"], "label": ["A", "B"]}, "answerKey": "B"}
    record = one(tmp_path, row, columns={"choices": "choices.text", "answer": "answerKey"})
    assert (record.correct, record.incorrect) == ((" yes",), (" no",))
    row = {"prompt": "p", "completion": "c", "others": ["d"]}
    assert one(tmp_path, row, columns={"aliases": "others"}).aliases == ("d",)


@pytest.mark.parametrize(
    ("row", "columns", "words"),
    [
        ({"prompt": "p"}, {}, "FILE, line 1: got prompt; expected, besides the prompt, completion; or messages; or c"),
        ({}, {}, "FILE, line 1: got no field; expected"),
        ({"prompt": "p", "chosen": "c"}, {}, "FILE, line 1: got prompt, chosen; expected"),
        (
            {"prompt": "p", "choices": ["a", "b"], "answer": None},
            {},
            "FILE, line 1: got prompt, choices, answer; exp",
        ),
        ({**COMPLETION, "rejected": "x"}, {}, "FILE, line 1: got prompt, completion, rejected; expected"),
        ({**COMPLETION, **PAIR}, {}, "FILE, line 1: got prompt, completion, chosen, rejected; expected"),
        ({**PAIR, "aliases": ["x"]}, {}, "FILE, line 1: got prompt, chosen, rejected, aliases; expected"),
        (COMPLETION, {"completion": "reply"}, "FILE, line 1: no field 'reply'; got prompt, completion"),
        (PAIR, {"chosen": "good"}, "FILE, line 1: no field 'good'; got prompt, chosen, rejected"),
        (
            COMPLETION,
            {"answer": "a", "chosen": "b"},
            "columns: got answer, chosen; expected completion;",
        ),
    ],
)
def test_a_line_of_no_shape_or_of_two_is_refused(tmp_path, row, columns, words):
    refuse(tmp_path, [row], words, columns=columns)
    with pytest.raises(LofitError):
        jsonl.aims(tmp_path, Options(columns=columns))


def test_fields_that_are_null_count_as_absent(tmp_path):
    nothing = {"aliases": None, "chosen": None, "rejected": None, "choices": None, "answer": None, "id": None}
    assert one(tmp_path, {**COMPLETION, **nothing}) == Record("test.jsonl:1", "hot", " cold")
    assert one(tmp_path, {**PAIR, "completion": None, "aliases": None}).rejected == " What."


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"train": [COMPLETION, PAIR]}, "train.jsonl, line 2: got chosen and rejected; expected completion, as before"),
        ({"train": [PAIR], "test": [PAIR, CHOICE]}, "test.jsonl, line 2: got choices and answer; expected chosen and"),
        ({"all": [CHOICE, COMPLETION]}, "all.jsonl, line 2: got completion; expected choices and answer, as before"),
    ],
)
def test_all_lines_of_all_files_have_one_shape(tmp_path, files, words):
    for split, rows in files.items():
        write(tmp_path, split, rows)
    with pytest.raises(LofitError) as refusal:
        jsonl.aims(tmp_path, Options())
    assert str(refusal.value).startswith(f"{tmp_path}/{words}")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({**COMPLETION, "completion": " "}, "field 'completion' is ' '; expected a text that is not blank"),
        ({**COMPLETION, "completion": [7]}, "field 'completion' is [7]; expected a text that is not blank"),
        ({**COMPLETION, "completion": "a\nb"}, "the completion has several lines; expected one"),
        ({**COMPLETION, "aliases": "x"}, "field 'aliases' is 'x'; expected a list that is not blank"),
        ({**COMPLETION, "aliases": ["x", {}]}, "field 'aliases.1' is {}; expected a text that is not blank"),
        ({**PAIR, "rejected": " Hi."}, "chosen and rejected are the same; expected two answers"),
        ({**PAIR, "rejected": ""}, "field 'rejected' is ''; expected a text that is not blank"),
        ({**CHOICE, "choices": ["a", ""]}, "field 'choices.1' is ''; expected a text that is not blank"),
        ({**CHOICE, "choices": []}, "got 0 choices; expected two or more"),
        ({**CHOICE, "choices": ["a"]}, "got 1 choices; expected two or more"),
        ({**CHOICE, "choices": ["a", "b", "a "]}, "choice 'a' stands twice; expected each once"),
        ({**COMPLETION, "id": 1.5}, "id 1.5; expected a text or a whole number"),
    ],
)
def test_a_field_that_cannot_be_used_is_refused_with_its_line(tmp_path, row, words):
    usual = next(usual for usual in (COMPLETION, PAIR, CHOICE) if set(usual) <= set(row))
    refuse(tmp_path, [usual, row], f"FILE, line 2: {words}")


def test_a_line_break_at_the_end_of_a_completion_is_no_second_line(tmp_path):
    assert one(tmp_path, {"prompt": "p", "completion": "c\n"}).completion == " c\n"


@pytest.mark.parametrize(
    ("choices", "answer", "right"),
    [
        (["x", "y", "z"], 0, "x"),
        (["x", "y", "z"], 2, "z"),
        (["x", "y", "z"], 2.0, "z"),
        (["x", "y", "z"], "A", "x"),
        (["x", "y", "z"], "C", "z"),
        (["x", "y", "z"], "y", "y"),
        (["x ", " y", "z"], "x", "x "),
        (["A", "B"], "B", "B"),
        (["0", "1"], "1", "1"),
        (["0", "1"], 1, "1"),
        ([f"choice {i}" for i in range(30)], 29, "choice 29"),
        ([f"choice {i}" for i in range(30)], "Z", "choice 25"),
    ],
)
def test_an_answer_is_an_index_a_letter_or_a_text(tmp_path, choices, answer, right):
    record = one(tmp_path, {"prompt": "p:\n", "choices": choices, "answer": answer})
    assert record.completion == right and record.correct == (right,)
    assert record.incorrect == tuple(choice for choice in choices if choice != right)


@pytest.mark.parametrize("answer", [3, -1, "D", "a", "0", "X", True, 1.5, ["x"], ""])
def test_an_answer_that_means_no_choice_is_refused(tmp_path, answer):
    row = {"prompt": "p", "choices": ["x", "y", "z"], "answer": answer}
    words = f"FILE, line 1: answer {answer!r}; expected 0 to 2, A to C, or the text of a choice"
    refuse(tmp_path, [row], words)


def test_an_answer_that_means_two_choices_is_refused(tmp_path):
    row = {"prompt": "p", "choices": ["B", "A"], "answer": "A"}
    refuse(tmp_path, [row], "FILE, line 1: answer 'A' is the letter of one choice and the text of another")


def test_ids_are_those_of_the_lines_or_their_places(tmp_path):
    (tmp_path / "test.jsonl").write_text('{"id": 0, "prompt": "p", "completion": "c"}\n\n' + json.dumps(OPEN) + "\n")
    write(tmp_path, "train", [{**OPEN, "id": "x"}])
    write(tmp_path, "val", [{**OPEN, "id": "x"}])
    assert [record.id for record in jsonl.load(tmp_path, "test", Options())] == ["0", "test.jsonl:3"]
    assert [record.id for record in jsonl.load(tmp_path, "val", Options())] == ["x"]
    rows = [{**OPEN, "id": "1"}, OPEN, {**OPEN, "id": 1}]
    refuse(tmp_path, rows, "FILE, line 3: id '1' stands in FILE, line 1 already; expected each once")


@pytest.mark.parametrize("count", [12, 40, 41])
@pytest.mark.parametrize(("val", "test"), [(0.25, 0.25), (0.1, 0.5), (0.3, 0.05)])
def test_one_file_is_split_into_disjoint_parts_that_cover_it(tmp_path, count, val, test):
    write(tmp_path, "all", numbered(count))
    parts = splits(tmp_path, val_ratio=val, test_ratio=test)
    assert sorted(i for part in parts.values() for i in part) == list(range(count))
    assert len(parts["val"]) == round(count * val) and len(parts["test"]) == round(count * test)
    assert all(part == sorted(part) for part in parts.values())


def test_a_split_depends_on_the_seed_and_test_does_not_depend_on_validation(tmp_path):
    write(tmp_path, "all", numbered(40))
    first = splits(tmp_path, val_ratio=0.25, test_ratio=0.25)
    assert first == splits(tmp_path, val_ratio=0.25, test_ratio=0.25)
    assert first != splits(tmp_path, val_ratio=0.25, test_ratio=0.25, seed=1)
    assert first["test"] == splits(tmp_path, val_ratio=0.5, test_ratio=0.25)["test"]
    # Over many seeds each line lands in test about as often as the ratio says.
    often = [0] * 40
    for seed in range(400):
        for i in splits_of("test", tmp_path, val_ratio=0.25, test_ratio=0.25, seed=seed):
            often[i] += 1
    assert min(often) > 60 and max(often) < 140


def test_the_split_of_a_seed_is_the_same_in_every_version(tmp_path):
    write(tmp_path, "all", numbered(12))
    assert splits(tmp_path, val_ratio=0.25, test_ratio=0.25) == PINNED


@pytest.mark.parametrize("missing", [("val",), ("test",), ("val", "test")])
def test_a_split_without_a_file_is_taken_from_train(tmp_path, missing):
    write(tmp_path, "train", numbered(20))
    for split in {"val", "test"} - set(missing):
        write(tmp_path, split, numbered(5, start=100))
    parts = splits(tmp_path, **{f"{split}_ratio": 0.2 for split in missing})
    for split in ("val", "test"):
        assert len(parts[split]) == (4 if split in missing else 5)
    of_train = [i for part in parts.values() for i in part if i < 100]
    assert sorted(of_train) == list(range(20)) and len(parts["train"]) == 20 - 4 * len(missing)


def test_three_files_are_taken_as_they_are(tmp_path):
    for start, split in ((0, "train"), (10, "val"), (20, "test")):
        write(tmp_path, split, numbered(3, start=start))
    assert splits(tmp_path) == {"train": [0, 1, 2], "val": [10, 11, 12], "test": [20, 21, 22]}


@pytest.mark.parametrize(
    ("files", "ratios", "words"),
    [
        (
            ["all"],
            {},
            "val_ratio: missing; expected the share of ",
        ),
        (["all"], {"val": 0.2}, "test_ratio: missing; expected the share of "),
        (["train"], {"test": 0.2}, "val_ratio: missing; expected the share of "),
        (["train", "val"], {}, "test_ratio: missing; expected the share of "),
        (["all", "test"], {"val": 0.2, "test": 0.2}, "all.jsonl: got "),
        ([], {"val": 0.2, "test": 0.2}, "source: got no file called train; expected one"),
        (
            ["all"],
            {"val": 0.01, "test": 0.2},
            "all.jsonl: 20 lines leave none for val at test_ratio 0.2, val_ratio",
        ),
        (["train"], {"val": 0.5, "test": 0.49}, "train.jsonl: 20 lines leave none for train at test_ratio 0.49, val_"),
    ],
)
def test_splits_that_cannot_be_made_are_refused(tmp_path, files, ratios, words):
    for split in files:
        write(tmp_path, split, numbered(20))
    with pytest.raises(LofitError) as refusal:
        splits(tmp_path, **{f"{split}_ratio": ratio for split, ratio in ratios.items()})
    said = str(refusal.value)
    assert said.startswith((words, f"{tmp_path}/{words}")) and "\n" not in said


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_ratio_beside_the_file_of_its_split_is_refused(tmp_path, split):
    for name in ("train", "val", "test"):
        write(tmp_path, name, numbered(20))
    with pytest.raises(LofitError) as refusal:
        splits(tmp_path, **{f"{split}_ratio": 0.2})
    file = tmp_path / f"{split}.jsonl"
    assert str(refusal.value) == f"{split}_ratio: got 0.2; expected null, since there is {file}"


@pytest.mark.parametrize(
    ("name", "objective", "metric"),
    [
        ("antonyms", "cross_entropy", "exact_match"),
        ("preferences", "dpo", "preference_accuracy"),
        ("choices", "cross_entropy", "accuracy"),
        ("chats", "cross_entropy", "exact_match"),
    ],
)
def test_the_examples_are_of_the_shapes_that_they_show(tmp_path, name, objective, metric):
    (tmp_path / "all.jsonl").write_bytes((EXAMPLES / f"{name}.jsonl").read_bytes())
    options = Options(val_ratio=0.25, test_ratio=0.25)
    assert tuple(aim.kind for aim in jsonl.aims(tmp_path, options)) == (objective, metric)
    records = [record for split in ("train", "val", "test") for record in jsonl.load(tmp_path, split, options)]
    assert len({(record.prompt, str(record.turns)) for record in records}) == len(records) >= 12


# ---------------------------------------------------------------------------------------------------------- helpers


def write(folder, split, rows):
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def one(folder, row, **options):
    """The only record of a task whose test split has one line."""
    for split in ("train", "val", "test"):
        write(folder, split, [row])
    (record,) = jsonl.load(folder, "test", Options(**options))
    return record


def aimed(folder, **options):
    return jsonl.aims(folder, Options(**options))


def refuse(folder, rows, words, **options):
    """Reading `rows` ends with one line that begins with `words`."""
    for split in ("train", "val", "test"):
        write(folder, split, rows)
    with pytest.raises(LofitError) as refusal:
        jsonl.load(folder, "test", Options(**options))
    message = str(refusal.value).replace(f"{folder}/test.jsonl", "FILE")
    assert message.startswith(words) and "\n" not in message


def numbered(count, *, start=0):
    return [{"prompt": f"line {i}", "completion": "c"} for i in range(start, start + count)]


def splits_of(split, folder, **options):
    return [int(record.prompt.split()[1]) for record in jsonl.load(folder, split, Options(**options))]


def splits(folder, **options):
    """Which lines are in each split, by the number in their prompt."""
    return {split: splits_of(split, folder, **options) for split in ("train", "val", "test")}
