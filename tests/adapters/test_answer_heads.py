"""Offsets from the last token of the prompt on, against passes of one row with the edit written out."""

import pytest
import torch

from lofit import HeadAdapter, LofitError, Record, head_layout, load_adapter
from lofit.adapters.answer_heads import AnswerHeadAdapter
from lofit.models.tokens import collate, encode
from lofit.scoring.predict import predict
from lofit.tasks.record import Metric, Objective
from lofit.training.settings import TrainingSettings
from lofit.training.subject import Subject

HEADS = [(1, 2), (0, 3), (0, 1)]
PAIRS = [
    ("Q: Can pigs fly? A:", " No, pigs cannot fly", " Yes"),
    ("Q: Where did the cat sit? A:", " on the mat", " in the cat, on the dog"),
    ("Q", " Roy", " Anna and the dog"),
]
RECORDS = [Record(str(number), *pair) for number, pair in enumerate(PAIRS)]
CHOICES = [Record(n.id, n.prompt, n.completion, correct=(n.completion,), incorrect=(n.rejected, " a")) for n in RECORDS]


@pytest.fixture
def adapter():
    return AnswerHeadAdapter(HEADS, torch.randn(3, 8, generator=torch.Generator().manual_seed(5)))


def logits_by_hand(model, adapter, ids, start):
    """One row without cache or padding; tokens from the one before `start` are edited."""

    def edit(layer):
        def hook(_, args):
            (z,) = args
            z = z.clone()
            for (at, head), offset in zip(adapter.heads, adapter.offsets.detach(), strict=True):
                if at == layer:
                    z[0, max(start - 1, 0) :, 8 * head : 8 * head + 8] += offset
            return (z,)

        return hook

    handles = [
        block.self_attn.o_proj.register_forward_pre_hook(edit(layer)) for layer, block in enumerate(model.model.layers)
    ]
    try:
        with torch.no_grad():
            return model(torch.tensor([ids]), use_cache=False).logits[0]
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_answers_are_scored_with_their_tokens_edited(model, tokenizer, adapter, batch_size):
    options = {"batch_size": batch_size, "max_new_tokens": 1, "reading": adapter.reader}
    with adapter.attach(model):
        predictions = predict(model, tokenizer, CHOICES, Metric("multiple_choice"), **options)
    for record, prediction in zip(CHOICES, predictions, strict=True):
        for name in ("correct", "incorrect"):
            for answer, score in zip(getattr(record, name), prediction.evidence[name], strict=True):
                row = encode(tokenizer, record.prompt, answer)
                logprobs = logits_by_hand(model, adapter, row.ids, row.start).log_softmax(-1)
                expected = sum(logprobs[at - 1, row.ids[at]].item() for at in range(row.start, len(row.ids)))
                assert score == pytest.approx(expected, abs=1e-4)
    assert adapter.mask is None


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_generation_edits_the_end_of_the_prompt_and_every_new_token(model, tokenizer, adapter, batch_size):
    options = {"batch_size": batch_size, "max_new_tokens": 8, "reading": adapter.reader}
    with adapter.attach(model):
        predictions = predict(model, tokenizer, RECORDS, Metric("exact_match", stops=()), **options)
    texts = [prediction.evidence["generated"] for prediction in predictions]
    assert texts == [continued(model, tokenizer, adapter, record.prompt, 8) for record in RECORDS]
    # New tokens are edited: else it would write something else.
    assert texts != [continued(model, tokenizer, adapter, record.prompt, 8, prompt_only=True) for record in RECORDS]
    assert adapter.mask is None


def continued(model, tokenizer, adapter, prompt, count, *, prompt_only=False):
    """Greedy, every token anew for each one: no cache."""
    ids = tokenizer(prompt)["input_ids"]
    start = len(ids)
    while len(ids) < start + count and tokenizer.eos_token_id not in ids[start:]:
        if prompt_only and len(ids) > start:
            places = ids_edited_alone(model, adapter, ids, start - 1)
        else:
            places = logits_by_hand(model, adapter, ids, start)
        ids = [*ids, places[-1].argmax().item()]
    return tokenizer.decode(ids[start:], skip_special_tokens=True)


def ids_edited_alone(model, adapter, ids, place):
    class One(AnswerHeadAdapter):
        def positions(self, row):
            return range(place, place + 1)

    one, row = One(adapter.heads, adapter.offsets), encode_ids(ids)
    with one.attach(model), one.reading([row], len(ids)), torch.no_grad():
        return model(torch.tensor([ids]), use_cache=False).logits[0]


def encode_ids(ids):
    from lofit.models.tokens import Encoded

    return Encoded(tuple(ids), len(ids))


def test_padding_on_either_side_gives_the_same_logits(model, tokenizer, adapter):
    rows = [encode(tokenizer, record.prompt, record.completion) for record in RECORDS]
    width = max(len(row.ids) for row in rows)
    right = collate(rows, pad_id=7, device="cpu")
    ids = torch.tensor([[7] * (width - len(row.ids)) + list(row.ids) for row in rows])
    mask = torch.tensor([[0] * (width - len(row.ids)) + [1] * len(row.ids) for row in rows])
    with adapter.attach(model), torch.no_grad():
        with adapter.reading(rows, width):
            one = model(right["input_ids"], attention_mask=right["attention_mask"]).logits
        with adapter.reading(rows, width, left=True):
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            other = model(ids, attention_mask=mask, position_ids=positions).logits
    for number, row in enumerate(rows):
        length = len(row.ids)
        expected = logits_by_hand(model, adapter, row.ids, row.start)
        torch.testing.assert_close(one[number, :length], expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(other[number, width - length :], expected, rtol=1e-4, atol=1e-4)


def test_tokens_before_the_end_of_the_prompt_are_left_alone_to_the_bit(model, tokenizer, adapter):
    row = encode(tokenizer, *PAIRS[0][:2])
    ids = torch.tensor([row.ids])
    with torch.no_grad():
        plain = model(ids).logits[0]
        with adapter.attach(model), adapter.reading([row], len(row.ids)):
            edited = model(ids).logits[0]
        with adapter.attach(model):
            everywhere = model(ids).logits[0]
        with HeadAdapter(HEADS, adapter.offsets).attach(model):
            expected = model(ids).logits[0]
    assert torch.equal(edited[: row.start - 1], plain[: row.start - 1])
    assert all((one != other).any() for one, other in zip(edited[row.start - 1 :], plain[row.start - 1 :], strict=True))
    # Nothing says where an answer begins: all of it is edited.
    assert torch.equal(everywhere, expected)
    with torch.no_grad():
        assert torch.equal(model(ids).logits[0], plain)


def test_its_offsets_can_be_trained(model, tokenizer, adapter):
    subject = Subject(
        head_layout(model), model=model, tokenizer=tokenizer, records=RECORDS, objective=Objective("cross_entropy")
    )
    history = subject.train(adapter, TrainingSettings(lr=0.05, epochs=20, batch_size=3))
    assert history[-1]["loss"] < 0.95 * history[0]["loss"]


def test_its_folder_holds_it(adapter, tmp_path):
    adapter.save_pretrained(tmp_path / "one")
    met = load_adapter(tmp_path / "one")
    assert type(met) is AnswerHeadAdapter and met.heads == sorted(HEADS)
    for head, offset in zip(met.heads, met.offsets, strict=True):
        assert torch.equal(offset, adapter.offsets[HEADS.index(head)])
    met.save_pretrained(tmp_path / "two")
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()
    assert met.served_as is None and met.where == "answer" and met.lowest_layer == 0


@pytest.mark.parametrize(
    ("heads", "offsets", "words"),
    [
        ([(0, 1), (0, 1)], torch.zeros(2, 8), "named twice"),
        ([(0, 1)], torch.zeros(2, 8), "offsets: got shape"),
        ([(0, 1)], torch.full((1, 8), torch.nan), "NaN"),
    ],
)
def test_what_is_no_edit_of_heads_is_refused(heads, offsets, words):
    with pytest.raises(LofitError, match=words):
        AnswerHeadAdapter(heads, offsets)


@pytest.mark.parametrize(("head", "size"), [((2, 0), 8), ((0, 4), 8), ((0, 0), 7)])
def test_heads_of_another_model_are_refused(model, head, size):
    with pytest.raises(LofitError, match="expected"):
        AnswerHeadAdapter([head], torch.ones(1, size)).attach(model)
