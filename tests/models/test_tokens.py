"""Prompts and completions as tokens."""

import random

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from lofit.errors import LofitError
from lofit.models.tokens import IGNORED, Encoded, collate, encode, longest_first, tokenise

LETTERS = "aimno .:?'\nQA"


@pytest.fixture(scope="module")
def unigram():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=60,
        initial_alphabet=[*LETTERS, "▁"],
        special_tokens=["<unk>"],
        unk_token="<unk>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(["Q: Imagine a man on a main. A: no man", "A: nominal animation\nQ"] * 5, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


@pytest.fixture(scope="module")
def crossing(make_tokenizer):
    return make_tokenizer(words=False)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["tokenizer", "unigram", "crossing"])
def test_the_labelled_tokens_are_the_completion(request, kind, seed):
    tokenizer = request.getfixturevalue(kind)
    # Characters of two to four bytes, where every one of them is known.
    letters = LETTERS + ("éß日😀" if kind == "tokenizer" else "")
    clean = 0
    for prompt, completion in random_texts(letters, seed, count=60):
        row = encode(tokenizer, prompt, completion)
        before, whole = (decode(tokenizer, ids) for ids in (row.ids[: row.start], row.ids))
        assert whole == prompt + completion
        spans = tokenizer(prompt + completion, return_offsets_mapping=True)["offset_mapping"]
        if any(first == len(prompt) for first, _ in spans):
            clean += 1
            assert whole.removeprefix(before) == completion
        else:
            assert prompt.startswith(before) and len(before) < len(prompt)
            assert spans[row.start][0] < len(prompt) < spans[row.start][1]
    assert clean > 20


def test_a_token_that_crosses_the_border_belongs_to_the_completion(crossing):
    row = encode(crossing, "A", ": No")
    assert crossing("A: No")["input_ids"] == list(row.ids)
    assert crossing("A")["input_ids"] != list(row.ids[:1])
    assert row.start == 0


@pytest.mark.parametrize("completion", [" zebra", "  no", " "])
def test_a_blank_counts_where_the_tokenizer_trims_it_off_its_offsets(make_tokenizer, completion):
    tokenizer = make_tokenizer(trim=True)
    row = encode(tokenizer, "Q: A:", completion)
    assert decode(tokenizer, row.ids[row.start :]) == completion


def test_the_end_of_sequence_is_a_part_of_the_completion_on_demand(tokenizer):
    open_row = encode(tokenizer, "Q: A:", " no")
    closed = encode(tokenizer, "Q: A:", " no", end=tokenizer.eos_token_id)
    assert closed == Encoded((*open_row.ids, tokenizer.eos_token_id), open_row.start)


def test_the_end_of_sequence_is_not_added_twice(make_tokenizer):
    tokenizer = make_tokenizer(closes=True)
    row = encode(tokenizer, "Q: A:", " no", end=tokenizer.eos_token_id)
    assert row.ids.count(tokenizer.eos_token_id) == 1 and row.ids[-1] == tokenizer.eos_token_id


def test_an_end_that_the_tokenizer_adds_is_dropped_where_none_is_wanted(make_tokenizer, tokenizer):
    assert encode(make_tokenizer(closes=True), "Q: A:", " no") == encode(tokenizer, "Q: A:", " no")


def test_an_empty_completion_is_refused(tokenizer):
    with pytest.raises(LofitError, match="completion '' of prompt 'Q: A:' has no token of its own"):
        encode(tokenizer, "Q: A:", "", end=tokenizer.eos_token_id)


def test_an_empty_prompt_is_allowed(tokenizer):
    assert encode(tokenizer, "", "no").start == 0


def test_the_longest_sequence_allowed_counts_the_end(tokenizer):
    length = len(encode(tokenizer, "Q: A:", " no", end=tokenizer.eos_token_id).ids)
    assert len(encode(tokenizer, "Q: A:", " no", end=tokenizer.eos_token_id, max_length=length).ids) == length
    with pytest.raises(LofitError, match=f"'Q: A:'.*: {length} tokens .* expected max_length, {length - 1}"):
        encode(tokenizer, "Q: A:", " no", end=tokenizer.eos_token_id, max_length=length - 1)


def test_a_tokenizer_without_offsets_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(LofitError, match="Slow: no character offsets; expected a fast tokenizer"):
        encode(Slow(), "Q: A:", " no")


def test_batches_are_padded_on_the_right_and_labelled_on_completions_only():
    batch = collate([Encoded((5, 6, 7, 8), 2), Encoded((9, 3), 1)], pad_id=4, device="cpu")
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8], [9, 3, 4, 4]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch["labels"].tolist() == [[IGNORED, IGNORED, 7, 8], [IGNORED, 3, IGNORED, IGNORED]]
    assert all(value.dtype == torch.long for value in batch.values())


def test_a_padding_token_inside_a_completion_is_still_labelled():
    batch = collate([Encoded((5, 0, 0), 1), Encoded((5, 6, 7, 8), 3)], pad_id=0, device="cpu")
    assert batch["labels"][0].tolist() == [IGNORED, 0, 0, IGNORED]
    assert batch["attention_mask"][0].tolist() == [1, 1, 1, 0]


def test_the_longest_rows_come_first_and_equals_keep_their_order():
    assert list(longest_first([3, 9, 3, 1, 9], batch_size=2)) == [[1, 4], [0, 2], [3]]
    assert list(longest_first([], batch_size=2)) == []


@pytest.mark.parametrize(("text", "begins"), [("a", True), ("<s>a", False), ("\n <s>a", False), ("a<s>", True)])
def test_a_text_that_begins_with_the_beginning_token_gets_no_second(make_tokenizer, text, begins):
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    begin = tokenizer.bos_token_id
    opening = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", begin)])
    tokenizer.backend_tokenizer.post_processor = opening
    ids = tokenise(tokenizer, text)["input_ids"]
    assert (ids[0] == begin) == (begins or text.startswith("<s>"))
    assert ids.count(begin) == text.count("<s>") + begins


# ---------------------------------------------------------------------------------------------------------- helpers


def random_texts(letters: str, seed: int, *, count: int) -> list[tuple[str, str]]:
    """Prompts and completions without blanks at their outer ends, which some decoders drop."""
    draw = random.Random(seed)
    pairs = []
    while len(pairs) < count:
        prompt, completion = ("".join(draw.choices(letters, k=draw.randint(1, 12))) for _ in range(2))
        if prompt == prompt.lstrip() and completion.strip():
            pairs.append((prompt, completion))
    return pairs


def decode(tokenizer: PreTrainedTokenizerFast, ids: tuple[int, ...]) -> str:
    return tokenizer.backend_tokenizer.decode(list(ids), skip_special_tokens=False)
