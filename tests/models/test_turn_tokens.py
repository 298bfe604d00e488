"""A tokenizer as instruction-tuned models have it: one token ends a turn, ends the text and pads; none begins a text.

Turns begin with a token that the tokenizer calls the beginning and puts in front of nothing. A blank belongs to the
token of the word behind it, and words merge across the end of a prompt.
"""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

import lofit
from lofit import Record
from lofit.models.generation import generate
from lofit.models.tokens import IGNORED, collate, encode, tokenise
from lofit.models.vocabulary import vocabulary_of
from lofit.scoring.predict import predict
from lofit.tasks.plain import to_records
from lofit.tasks.record import Metric, Objective
from lofit.training.examples import encode_record

TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
TEXT = ['Q: Who? A: Roy\nQ: Where? A: "on the mat" user assistant no yes A:"no A:"yes'] * 5
CHATS = [
    {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]}
    for content, answer in (("Who?", "Roy"), ("Where did Anna sit?", "on the mat"), ("Q", "no"))
]


@pytest.fixture(scope="module")
def turns():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=310,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|text|>", "<|start|>", "<|end|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    names = {"bos_token": "<|start|>", "eos_token": "<|end|>", "pad_token": "<|end|>", "unk_token": "<|text|>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=TEMPLATE, **names)


@pytest.fixture
def chats(turns):
    return to_records(CHATS, turns)[0]


def test_a_chat_begins_each_turn_once_and_its_answer_ends_with_the_token_that_pads(make_model, turns, chats):
    vocabulary = vocabulary_of(make_model(pad_token_id=None, eos_token_id=None), turns)
    start, end = turns.convert_tokens_to_ids(["<|start|>", "<|end|>"])
    assert (vocabulary.padding, vocabulary.ends) == (end, (end,))
    rows = [encode_record(turns, record, Objective("cross_entropy"), vocabulary)[0] for record in chats]
    batch = collate(rows, pad_id=vocabulary.padding, device="cpu")
    for place, (row, record) in enumerate(zip(rows, chats, strict=True)):
        # The user's turn, and the one that is to be written.
        assert row.ids.count(start) == 2 and row.ids[0] == start and row.ids.count(end) == 2
        assert list(row.ids[: row.start]) == tokenise(turns, record.prompt)["input_ids"]
        labels = [label for label in batch["labels"][place].tolist() if label != IGNORED]
        assert turns.decode(labels) == f"{record.completion}<|end|>"
        assert batch["attention_mask"][place].sum() == len(row.ids)


def test_a_chat_is_answered_up_to_the_end_of_its_turn_whatever_is_padded(make_model, turns, chats):
    """Tuned to answer and to end the turn, a model is stopped there: in batches, too, which are padded by that end."""
    model = make_model(pad_token_id=None, eos_token_id=None)
    adapter = lofit.fit(model, turns, CHATS, method="full", lr=0.01, epochs=40, batch_size=3)
    metric, options = Metric("exact_match", stops=()), {"max_new_tokens": 12}
    with adapter.attach(model):
        for size in (1, 3):
            made = predict(model, turns, chats, metric, batch_size=size, **options)
            assert [one.evidence["generated"] for one in made] == ["Roy", "on the mat", "no"]


@pytest.mark.parametrize("prompt", ["Q: Who? A:", "Q: Who? A: ", "Q: Who? A:\n"])
@pytest.mark.parametrize("answer", ["Roy", "no"])
def test_an_answer_is_trained_after_the_tokens_from_which_it_will_be_generated(turns, prompt, answer):
    (record,), _, _ = to_records([{"prompt": prompt, "completion": answer}], turns)
    row = encode(turns, record.prompt, record.completion)
    alone = tokenise(turns, record.prompt)["input_ids"]
    assert list(row.ids[: row.start]) == alone and row.start == len(alone)
    assert turns.decode(row.ids) == record.prompt + record.completion
    assert turns.decode(row.ids).removesuffix(answer) in (prompt, f"{prompt} ")


def test_an_answer_that_merges_with_its_prompt_is_scored_as_one_text(model, turns):
    """A quote after the colon makes one token with it: the prompt's last token is then the answer's first one."""
    prompt, answers = "Q: Who? A:", ('"no', '"yes', " no")
    rows = [encode(turns, prompt, answer) for answer in answers]
    alone = tokenise(turns, prompt)["input_ids"]
    assert [row.start for row in rows] == [len(alone) - 1, len(alone) - 1, len(alone)]
    record = Record("1", prompt, answers[0], correct=answers[:1], incorrect=answers[1:])
    (made,) = predict(model, turns, [record], Metric("multiple_choice"), batch_size=2, max_new_tokens=1)
    scores = [*made.evidence["correct"], *made.evidence["incorrect"]]
    for row, score in zip(rows, scores, strict=True):
        with torch.no_grad():
            logprobs = model(torch.tensor([row.ids])).logits[0].log_softmax(-1)
        by_hand = sum(logprobs[at - 1, row.ids[at]].item() for at in range(row.start, len(row.ids)))
        assert score == pytest.approx(by_hand, abs=1e-4)


def test_a_text_is_generated_without_a_token_before_it_and_without_the_tokens_of_turns(make_model, turns):
    model, seen = make_model(pad_token_id=None, eos_token_id=None), []
    with model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["input_ids"].tolist()), with_kwargs=True
    ):
        texts = generate(model, turns, ["Q: Who? A:", "Q: A:"], batch_size=2, max_new_tokens=3)
    end, long, short = turns.eos_token_id, *(turns(text)["input_ids"] for text in ("Q: Who? A:", "Q: A:"))
    assert seen[0] == [long, [end] * (len(long) - len(short)) + short]
    assert not any("<|" in text for text in texts)
