"""Drift: what an adapter changes where nothing should change, on a text that has nothing to do with its task.

ITI (Li et al. 2023, Table 3) measures the cross-entropy of the edited model on open text, and KL(base || edited) of
its next-token distributions. KL is the more sensitive: a change that makes some tokens likelier and others less so may
leave the cross-entropy as it was.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lofit.adapters.base import Adapter
from lofit.errors import LofitError
from lofit.models.layout import HeadLayout, head_layout
from lofit.models.runtime import check_model, deterministic, frozen, refuse_nan
from lofit.models.tokens import Encoded, collate
from lofit.models.vocabulary import vocabulary_of

DIGITS = 6


@torch.no_grad()
def drift(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    adapter: Adapter,
    layout: HeadLayout | None = None,
    *,
    rows: int = 100,
    length: int = 128,
    batch_size: int = 4,
) -> dict[str, float]:
    """Compare `model` with the adapter and without it on `text`.

    The text is cut into pieces, and each is read as a prompt of its own: an adapter that acts at some positions acts
    at those of each piece. One that edits answers reads it as an answer.

    Args:
        layout: that of `model`; found where it is left open.
        rows: how many pieces are read at most, from the beginning of the text.
        length: tokens of a piece, with the beginning token where the tokenizer puts one. The last piece may be shorter.
        batch_size: pieces that go through the model together. All their logits are held, twice.

    Returns:
        `ce`, the cross-entropy of the edited model less that of the base, and `kl`, KL(base || edited) over the whole
        vocabulary: both in nats per predicted token, with 6 digits. An adapter that changes nothing gives 0.

    Raises:
        LofitError: an argument is not fit for it; the text is shorter than two tokens; or the model gives NaN.
    """
    check_model(model, tokenizer)
    for name, value, least in (("rows", rows, 1), ("length", length, 2), ("batch_size", batch_size, 1)):
        if type(value) is not int or value < least:
            raise LofitError(f"{name}: got {value!r}; expected a whole number from {least}")
    pieces = pieces_of(model, tokenizer, text, rows=rows, length=length)
    padding = vocabulary_of(model, tokenizer).padding
    layout = layout or head_layout(model)
    adapter.to(model.device)
    ce, kl = 0.0, 0.0
    with frozen(model), deterministic():
        for first in range(0, len(pieces), batch_size):
            some = [reread(piece, adapter) for piece in pieces[first : first + batch_size]]
            batch = collate(some, pad_id=padding, device=model.device)
            del batch["labels"]
            width = batch["input_ids"].shape[1]
            before = model(**batch, use_cache=False).logits
            with adapter.attach(model, layout), adapter.reading(some, width):
                after = model(**batch, use_cache=False).logits
            for row, base, edited in zip(some, before, after, strict=True):
                more, apart = drift_of_row(base, edited, row.ids)
                ce, kl = ce + more, kl + apart
    predicted = sum(len(row.ids) - 1 for row in pieces)
    return {"ce": round(ce / predicted, DIGITS), "kl": round(kl / predicted, DIGITS)}


def pieces_of(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str, *, rows: int, length: int
) -> list[Encoded]:
    """The first `rows` pieces of a text, `length` tokens each, the last one perhaps fewer, as prompts."""
    vocabulary = vocabulary_of(model, tokenizer)
    if vocabulary.positions is not None and length > vocabulary.positions:
        raise LofitError(f"length: got {length}; expected at most {vocabulary.positions}, the positions of the model")
    # A whole text is longer than any model reads; of that the tokenizer need not warn.
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    begun = tokenizer("", verbose=False)["input_ids"][:1]
    front = begun if begun == [vocabulary.begin] else []
    step = length - len(front)
    pieces = [[*front, *ids[first : first + step]] for first in range(0, min(len(ids), rows * step), step)]
    # A single token predicts nothing.
    kept = [Encoded(tuple(piece), len(piece)) for piece in pieces if len(piece) > 1]
    if not kept:
        raise LofitError(f"text: got {len(ids)} tokens; expected at least {2 - len(front)}")
    for piece in kept:
        vocabulary.check(piece.ids, text)
    return kept


def reread(piece: Encoded, adapter: Adapter) -> Encoded:
    """A piece as what an adapter acts on: a prompt; or what follows one, where that is what it edits."""
    return Encoded(piece.ids, 1) if adapter.edits_generated else piece


def drift_of_row(before: Tensor, after: Tensor, ids: Sequence[int]) -> tuple[float, float]:
    """Sums over the predicted tokens of one row: the edited model's cross-entropy less the base's, and the KL.

    Args:
        before: T x V logits of the base; those after the last of `ids` are left out.
        after: T x V logits of the edited model.
    """
    predicted = len(ids) - 1
    targets = torch.tensor(ids[1:], device=before.device)[:, None]
    exact = torch.promote_types(before.dtype, torch.float32)
    base, edited = (logits[:predicted].to(exact).log_softmax(-1) for logits in (before, after))
    more = (base.gather(-1, targets) - edited.gather(-1, targets)).squeeze(-1)
    apart = (base.exp() * (base - edited)).sum(-1)
    refuse_nan(more)
    refuse_nan(apart)
    # Sums of many tokens, on the CPU: not every accelerator has float64.
    return more.cpu().double().sum().item(), apart.cpu().double().sum().item()
