"""Generation that stops where the answer ends, against generation that always goes on."""

import pytest

from lofit.models.generation import generate
from lofit.scoring.metrics import answer_is_complete, exact_match
from lofit.scoring.predict import predict
from lofit.tasks.record import Metric, Record

PROMPTS = ["Q: Can pigs fly? A:", "A:", "Answer: Roy is Anna 's\n", "Q: Where did the cat sit? A:", "Q:"]
LETTER = "e"


def at_letter(text):
    return LETTER in text


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_a_row_ends_with_the_token_that_ends_its_answer(model, tokenizer, batch_size):
    whole = generate(model, tokenizer, PROMPTS, batch_size=5, max_new_tokens=24)
    cut = generate(model, tokenizer, PROMPTS, batch_size=batch_size, max_new_tokens=24, ended=at_letter)
    assert all(text.startswith(short) for text, short in zip(whole, cut, strict=True))
    ends = [LETTER in text for text in whole]
    assert any(ends) and not all(ends)
    for text, short, end in zip(whole, cut, ends, strict=True):
        assert (len(short) < len(text)) if end else (short == text)
        assert short.split(LETTER)[0] == text.split(LETTER)[0]
        last = tokenizer.decode(tokenizer(short)["input_ids"][-1])
        assert not end or LETTER in last


def test_the_model_stops_when_all_rows_have_ended(model, tokenizer):
    passes = []
    with model.register_forward_hook(lambda *_: passes.append(1)):
        generate(model, tokenizer, PROMPTS, batch_size=5, max_new_tokens=24, ended=lambda text: len(text) > 3)
    assert 1 < len(passes) < 12


def test_a_row_that_ended_is_not_padded_with_text(make_model, make_tokenizer):
    # Without an end-of-sequence token, transformers writes on in rows that have ended, until the last one has.
    model, tokenizer = make_model(eos_token_id=None), make_tokenizer(end=None)

    def ended(text):
        return len(text) >= 8

    together = generate(model, tokenizer, PROMPTS, batch_size=5, max_new_tokens=24, ended=ended)
    alone = generate(model, tokenizer, PROMPTS, batch_size=1, max_new_tokens=24, ended=ended)
    assert together == alone


@pytest.mark.parametrize(
    ("metric", "text", "over"),
    [
        (Metric("exact_match", "clean"), " Sweden\n", True),
        (Metric("exact_match", "clean"), " Sweden", False),
        (Metric("exact_match", "clean"), "\n Sweden", False),
        (Metric("exact_match", "clean", strip=False), "\n Sweden", True),
        (Metric("exact_match", "clean", stops=("\n", ".")), "Sweden.", True),
        (Metric("exact_match", "lofit", stops=("'s\n", ".")), "Sweden\nQ", False),
        # The answer may still begin anew.
        (Metric("exact_match", "lofit", after="A:", strip=False, plain=False), "Norway\nQ: And?", False),
    ],
)
def test_an_answer_has_ended_when_nothing_after_it_counts(metric, text, over):
    assert answer_is_complete(text, metric) == over
    record = Record("1", "Q: A:", " Sweden")
    later = [exact_match(text + more, record, metric) for more in ("", "land", "\nA:Sweden\n", ". 's\n")]
    assert (len(set(later)) == 1) == over


@pytest.mark.parametrize("stops", [(LETTER,), (" ", "a"), ("\n",)])
def test_predictions_are_those_of_answers_of_full_length(model, tokenizer, stops):
    metric = Metric("exact_match", "clean", stops=stops)
    records = [Record(str(i), prompt, " no") for i, prompt in enumerate(PROMPTS)]
    ours = predict(model, tokenizer, records, metric, batch_size=2, max_new_tokens=16)
    texts = generate(model, tokenizer, PROMPTS, batch_size=1, max_new_tokens=16)
    assert [row.evidence["prediction"] for row in ours] == [
        exact_match(text, record, metric)[0] for text, record in zip(texts, records, strict=True)
    ]
