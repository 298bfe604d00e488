"""Drift: the figures of a naive double loop in float64, nothing for nothing, and pieces of a text."""

import math

import pytest
import torch
from tokenizers import processors

from lofit import HeadAdapter
from lofit.adapters.answer_heads import AnswerHeadAdapter
from lofit.adapters.attachment import Attachment
from lofit.errors import LofitError
from lofit.models.layout import head_layout
from lofit.scoring.drift import drift, pieces_of

NEUTRAL = "The cat sat on the mat and the dog met her brother. Pigs cannot fly, and no cat can. Roy sat on a mat. " * 6
HEADS = [(0, 1), (1, 2)]


def random_adapter(size=0.5, heads=HEADS):
    generator = torch.Generator().manual_seed(3)
    return HeadAdapter(heads, offsets=size * torch.randn(len(heads), 8, generator=generator))


def naive(model, pieces, adapter):
    """Cross-entropies and KL token by token and word by word, each piece alone, with lists of Python floats."""
    model = model.double()
    more = apart = 0.0
    tokens = 0
    for piece in pieces:
        ids = torch.tensor([piece])
        before = model(input_ids=ids).logits[0]
        with adapter.attach(model):
            after = model(input_ids=ids).logits[0]
        for place in range(len(piece) - 1):
            p, q = (logprobs(logits[place].tolist()) for logits in (before, after))
            more += p[piece[place + 1]] - q[piece[place + 1]]
            apart += sum(math.exp(left) * (left - right) for left, right in zip(p, q, strict=True))
            tokens += 1
    return more / tokens, apart / tokens


def logprobs(logits):
    top = max(logits)
    total = top + math.log(sum(math.exp(value - top) for value in logits))
    return [value - total for value in logits]


def test_the_figures_are_those_of_a_naive_loop_in_float64(make_model, tokenizer):
    adapter = random_adapter()
    ids = tokenizer(NEUTRAL)["input_ids"]
    # Three whole pieces, and one that is cut short by the text's end: 4 rows in batches of 3 are padded.
    length = len(ids) // 3 - 5
    pieces = [ids[first : first + length] for first in range(0, len(ids), length)]
    assert len(pieces) == 4 and 1 < len(pieces[3]) < length
    more, apart = naive(make_model(), pieces, adapter)
    found = drift(make_model(), tokenizer, NEUTRAL, adapter, length=length, batch_size=3)
    assert found == pytest.approx({"ce": more, "kl": apart}, abs=2e-6)
    # Neither is near zero, and they are not each other.
    assert apart > 0.01 and abs(more) > 0.001 and abs(more - apart) > 0.001
    double = drift(make_model().double(), tokenizer, NEUTRAL, adapter, length=length, batch_size=3)
    assert double == pytest.approx({"ce": more, "kl": apart}, abs=6e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_adapter_of_zeros_gives_exactly_nothing(make_model, tokenizer, dtype):
    zeros = HeadAdapter(HEADS, offsets=torch.zeros(2, 8), scales=torch.zeros(2, 8))
    assert drift(make_model().to(dtype), tokenizer, NEUTRAL, zeros, rows=3, length=16) == {"ce": 0.0, "kl": 0.0}


def test_a_tiny_edit_gives_no_kl_below_zero(model, tokenizer):
    found = drift(model, tokenizer, NEUTRAL, random_adapter(1e-4), rows=4, length=32)
    assert found["kl"] >= -1e-6
    larger = drift(model, tokenizer, NEUTRAL, random_adapter(0.1), rows=4, length=32)
    assert larger["kl"] > max(found["kl"], 1e-4)


def test_the_batch_size_and_a_layout_change_nothing(model, tokenizer):
    one, many = (
        drift(model, tokenizer, NEUTRAL, random_adapter(), layout, length=20, batch_size=size)
        for layout, size in ((None, 1), (head_layout(model), 8))
    )
    assert one == pytest.approx(many, abs=2e-6)


def test_the_model_is_left_as_it_was(make_model, tokenizer):
    model = make_model().train().requires_grad_(True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    drift(model, tokenizer, NEUTRAL, random_adapter(), rows=2, length=16)
    assert model.training and all(weight.requires_grad for weight in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


class Upside(HeadAdapter):
    """Turns the logits of one position of each row upside down, and notes what it was given to read."""

    def __init__(self, place):
        super().__init__(HEADS, offsets=torch.ones(2, 8))
        self.place, self.seen = place, []

    def positions(self, row):
        self.seen.append((len(row.ids), row.start))
        return [self.place % len(row.ids)]

    def attach(self, model, layout=None):
        turn = lambda _, __, logits: torch.where(self.mask[..., None], -logits, logits)  # noqa: E731
        return Attachment([model.lm_head.register_forward_hook(turn)])


def test_each_piece_is_a_prompt_for_an_adapter_that_acts_at_some_positions(model, tokenizer):
    last, first = Upside(-1), Upside(0)
    # What a model says after a piece's last token predicts nothing that is known.
    assert drift(model, tokenizer, NEUTRAL, last, rows=3, length=16) == {"ce": 0.0, "kl": 0.0}
    assert last.seen == [(16, 16)] * 3
    assert drift(model, tokenizer, NEUTRAL, first, rows=3, length=16)["kl"] > 0.01
    # A last piece of 9 tokens is padded to 16 when they are read together: positions are those of the tokens.
    text = tokenizer.decode(tokenizer(NEUTRAL)["input_ids"][:25])
    alone, together = (drift(model, tokenizer, text, first, length=16, batch_size=size) for size in (1, 2))
    assert first.seen[-2:] == [(16, 16), (9, 9)] and alone == pytest.approx(together, abs=2e-6)


def test_pieces_follow_each_other_from_the_beginning_of_the_text(model, tokenizer):
    ids = tokenizer(NEUTRAL)["input_ids"]
    pieces = pieces_of(model, tokenizer, NEUTRAL, rows=3, length=10)
    assert [piece.ids for piece in pieces] == [tuple(ids[first : first + 10]) for first in (0, 10, 20)]
    short = pieces_of(model, tokenizer, NEUTRAL, rows=100, length=128)
    assert [token for piece in short for token in piece.ids] == ids


def test_each_piece_begins_with_the_beginning_token_where_the_tokenizer_puts_one(make_model, make_tokenizer):
    model, tokenizer = make_model(bos_token_id=1), make_tokenizer()
    plain = tokenizer(NEUTRAL)["input_ids"]
    tokenizer.bos_token = "!"
    begin = tokenizer.bos_token_id
    model.config.bos_token_id = begin
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="! $A </s>", special_tokens=[("!", begin), ("</s>", 0)]
    )
    pieces = pieces_of(model, tokenizer, NEUTRAL, rows=2, length=10)
    assert [piece.ids for piece in pieces] == [(begin, *plain[:9]), (begin, *plain[9:18])]
    # What the tokenizer puts at the end is no token of the text.
    (whole,) = pieces_of(model, tokenizer, "the cat", rows=5, length=64)
    assert whole.ids == (begin, *tokenizer("the cat", add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": ""}, "^text: got 0 tokens; expected at least 2$"),
        ({"text": "Q"}, "^text: got 1 tokens; expected at least 2$"),
        ({"rows": 0}, "^rows: got 0; expected a whole number from 1$"),
        ({"length": 1}, "^length: got 1; expected a whole number from 2$"),
        ({"length": 257}, "^length: got 257; expected at most 256, the positions of the model$"),
        ({"batch_size": True}, "^batch_size: got True; expected a whole number from 1$"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(model, tokenizer, changes, message):
    arguments = {"text": NEUTRAL, **changes}
    with pytest.raises(LofitError, match=message):
        drift(model, tokenizer, adapter=random_adapter(), **arguments)


def test_what_edits_answers_reads_the_text_as_one(model, tokenizer):
    """Read as prompts, an edit of answers would seem to change nothing but each piece's end."""
    everywhere = random_adapter()
    answers = AnswerHeadAdapter(HEADS, everywhere.offsets)
    options = {"rows": 3, "length": 16}
    assert drift(model, tokenizer, NEUTRAL, answers, **options) == drift(
        model, tokenizer, NEUTRAL, everywhere, **options
    )
