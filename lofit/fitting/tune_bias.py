"""LoFiT's step 2 for callers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lofit.adapters.heads import HeadAdapter
from lofit.fitting.context import Context, Records, at_work, check_heads, make_subject, provenance_of
from lofit.methods import lofit
from lofit.models.layout import Head


def tune_bias(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    records: Records,
    heads: Sequence[Head],
    *,
    seed: int = 42,
    val: Records = (),
    checkpoint: Path | str | None = None,
    context: Context | None = None,
    **settings: Any,
) -> HeadAdapter:
    """LoFiT's step 2: an offset vector for each of `heads` (see `lofit.methods.lofit`).

    Args:
        settings: `lr`, `epochs`, `batch_size` and so on (`Settings`); the others are those of `fit`.
    """
    values = lofit.Settings.of(settings)
    subject, _ = make_subject(model, tokenizer, records, seed=seed, val=val, checkpoint=checkpoint, context=context)
    pairs = check_heads(heads, subject)
    with at_work(subject, "lofit") as part:
        adapter = lofit.fit(part, values, sorted(pairs))
    adapter.provenance = provenance_of(subject, "lofit", values.model_dump(mode="json"))
    return adapter
