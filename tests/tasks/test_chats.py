"""Chats in a user's data: messages, as chat models are trained on, and prompts that a template writes."""

import json

import pytest

import lofit
from lofit.errors import LofitError
from lofit.tasks import jsonl, preprocess
from lofit.tasks.prompts import Reader
from lofit.tasks.record import Metric, Objective, Options, read_metric, read_records

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{{ '!' if loud else '' }}<assistant>"
SYSTEM, ASKED = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "hot"}
COLD, NO = ({"role": "assistant", "content": text} for text in ("cold\nvery", "no"))
CHAT = {"messages": [SYSTEM, ASKED, COLD]}
EXPLICIT = {"prompt": [SYSTEM, ASKED], "chosen": [COLD], "rejected": [NO]}
IMPLICIT = {"prompt": "hot", "chosen": [ASKED, COLD], "rejected": [ASKED, NO]}


@pytest.fixture
def chatting(make_tokenizer):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = TEMPLATE
    return tokenizer


@pytest.mark.parametrize(
    ("row", "options", "turns", "answers"),
    [
        (CHAT, {}, [SYSTEM, ASKED], ("cold\nvery", None)),
        (EXPLICIT, {}, [SYSTEM, ASKED], ("cold\nvery", "no")),
        (IMPLICIT, {}, [ASKED], ("cold\nvery", "no")),
        ({**IMPLICIT, "prompt": [ASKED]}, {}, [ASKED], ("cold\nvery", "no")),
        ({"prompt": [ASKED], "completion": [NO]}, {}, [ASKED], ("no", None)),
        ({"prompt": [ASKED], "completion": "no"}, {"system": "Be brief."}, [SYSTEM, ASKED], ("no", None)),
        ({"prompt": "hot", "completion": "no"}, {"chat": True, "system": "Be brief."}, [SYSTEM, ASKED], ("no", None)),
        ({"prompt": [SYSTEM, ASKED], "completion": "no"}, {"system": "Talk."}, [SYSTEM, ASKED], ("no", None)),
        ({"talk": [ASKED, NO], "chosen": "x"}, {"columns": {"messages": "talk"}}, [ASKED], ("no", None)),
        ({"prompt": [ASKED], "choices": ["no", "yes"], "answer": "B"}, {}, [ASKED], ("yes", None)),
    ],
)
def test_messages_are_turns_and_an_answer(tmp_path, row, options, turns, answers):
    record = one(tmp_path, row, **options)
    assert list(record.turns) == turns and (record.completion, record.rejected) == answers


def test_an_answer_of_a_chat_may_have_lines_and_ends_with_its_end_token(tmp_path):
    one(tmp_path, CHAT)
    assert jsonl.aims(tmp_path, Options()) == (Objective("cross_entropy"), Metric("exact_match", stops=()))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"messages": [ASKED]}, "messages ends with a turn of user; expected the assistant's answer"),
        ({"messages": [{"role": "bot", "content": "x"}, COLD]}, "messages, turn 1: got role 'bot' and a str; expected"),
        ({"messages": [{"role": "user", "content": None}, COLD]}, "messages, turn 1: got role 'user' and a NoneType"),
        ({**IMPLICIT, "rejected": [SYSTEM, NO]}, "rejected begins otherwise than chosen; expected the same turns"),
        ({"messages": ["hot", "cold"]}, "field 'messages' is ['hot', 'cold']; expected messages"),
        ({"messages": "hot"}, "field 'messages' is 'hot'; expected messages"),
    ],
)
def test_a_chat_that_cannot_be_used_is_one_line(tmp_path, row, words):
    with pytest.raises(LofitError) as refusal:
        one(tmp_path, row)
    assert str(refusal.value).startswith(f"{tmp_path}/test.jsonl, line 1: {words}")


def test_preprocessing_writes_what_the_template_makes_of_a_chat(tmp_path, chatting):
    counts = run(tmp_path, [CHAT], chatting, chat_options={"loud": True})
    assert counts == {"train": 1, "val": 1, "test": 1, "repeated": 2}
    (record,) = read_records(tmp_path / "out", "test")
    assert record.prompt == "<system>Be brief.<user>hot!<assistant>" and not record.turns
    assert read_metric(tmp_path / "out").stops == ()


@pytest.mark.parametrize("options", [{"system": "Be brief."}, {"chat_options": {"loud": True}}])
def test_what_is_said_of_chats_is_refused_where_there_are_none(tmp_path, chatting, options):
    rows = [{"prompt": "hot", "completion": "cold"}]
    with pytest.raises(LofitError, match=r"; expected only with chat: true, or for messages$"):
        run(tmp_path, rows, chatting, **options)
    assert run(tmp_path, rows, chatting, chat=True, **options)["test"] == 1


def test_a_template_that_refuses_a_chat_is_one_line_that_names_the_row(tmp_path, chatting):
    chatting.chat_template = "{{ raise_exception('No system turns') }}"
    with pytest.raises(LofitError) as refusal:
        run(tmp_path, [CHAT], chatting)
    assert str(refusal.value).startswith(
        "example train.jsonl:1: chat template: No system turns; expected one that takes"
    )
    assert not (tmp_path / "out").exists()


def test_chats_are_fitted_and_scored_from_python(model, chatting):
    adapter = lofit.fit(model, chatting, [CHAT], k=1, epochs=1, lr=0.01)
    assert set(lofit.score(model, chatting, [CHAT], adapter=adapter)) == {"exact_match"}
    assert set(lofit.score(model, chatting, [EXPLICIT, IMPLICIT])) == {"preference_accuracy"}


@pytest.mark.parametrize("overlong", ["drop", "cut_prompt"])
def test_examples_that_are_too_long_are_dropped_or_lose_the_beginning_of_their_prompts(
    tmp_path, tokenizer, capsys, overlong
):
    rows = [{"prompt": "the cat sat on the mat. " * n + f"Q{n}:", "completion": "no"} for n in (1, 2, 9)]
    short, exact, long = (len(tokenizer(f"{row['prompt']} {row['completion']}")["input_ids"]) + 1 for row in rows)
    counts = run(tmp_path, rows, tokenizer, overlong=overlong, max_length=exact)
    kept = read_records(tmp_path / "out", "test")
    assert short < exact < long and [record.prompt for record in kept[:2]] == [row["prompt"] for row in rows[:2]]
    if overlong == "drop":
        assert counts["dropped"] == 3 and counts["test"] == 2 == len(kept)
        return
    assert counts["cut"] == 3 and counts["test"] == 3
    assert rows[2]["prompt"].endswith(kept[2].prompt) and kept[2].prompt.endswith("Q9:")
    assert len(tokenizer(kept[2].prompt + kept[2].completion)["input_ids"]) + 1 in (exact - 1, exact)


def test_of_a_chat_the_last_turn_is_cut_and_the_template_stays_whole(tmp_path, chatting):
    turns = [SYSTEM, {"role": "user", "content": "the cat sat on the mat. " * 9 + "hot"}, NO]
    run(tmp_path, [{"messages": turns}], chatting, overlong="cut_prompt", max_length=60)
    (record,) = read_records(tmp_path / "out", "test")
    assert record.prompt.startswith("<system>Be brief.<user>") and record.prompt.endswith("hot<assistant>")
    assert 55 <= len(chatting(record.prompt + record.completion)["input_ids"]) + 1 <= 60


def test_a_generated_answer_needs_room_among_the_positions(tmp_path, tokenizer):
    rows = [{"prompt": "the cat sat on the mat. " * 3 + "Q:", "completion": "no"}]
    length = len(tokenizer(rows[0]["prompt"])["input_ids"])
    for new_tokens, cut in ((4, 0), (5, 3)):
        counts = run(tmp_path, rows, tokenizer, overlong="cut_prompt", positions=length + 4, new_tokens=new_tokens)
        assert counts["cut"] == cut


@pytest.mark.parametrize(
    ("overlong", "words"),
    [
        ("drop", "overlong: got drop, which leaves no example of train; expected some"),
        ("cut_prompt", "example train.jsonl:1: "),
    ],
)
def test_examples_that_cannot_be_made_short_enough_are_one_line(tmp_path, tokenizer, overlong, words):
    rows = [{"prompt": "Q:", "completion": "the cat sat on the mat. " * 9}]
    with pytest.raises(LofitError) as refusal:
        run(tmp_path, rows, tokenizer, overlong=overlong, max_length=20)
    assert str(refusal.value).startswith(words)


# ---------------------------------------------------------------------------------------------------------- helpers


def write(folder, rows):
    folder.mkdir(exist_ok=True)
    for split in ("train", "val", "test"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def one(folder, row, **options):
    write(folder, [row])
    (record,) = jsonl.load(folder, "test", Options(**options))
    return record


def run(folder, rows, tokenizer, *, max_length=None, positions=None, new_tokens=0, **options):
    write(folder / "raw", rows)
    values = Options(**options)
    reader = Reader(tokenizer, values.chat_options, max_length, positions, new_tokens)
    return preprocess("jsonl", folder / "raw", folder / "out", values, reader=lambda: reader)
