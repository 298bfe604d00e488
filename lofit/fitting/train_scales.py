"""LoFiT's step 1 for callers."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lofit.adapters.heads import HeadAdapter
from lofit.fitting.context import Context, Records, at_work, make_subject, provenance_of
from lofit.rankings import scale_norm


def train_scales(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    records: Records,
    *,
    seed: int = 42,
    val: Records = (),
    checkpoint: Path | str | None = None,
    context: Context | None = None,
    **settings: Any,
) -> HeadAdapter:
    """LoFiT's step 1: a scaling vector for every head of the model (see `lofit.rankings.scale_norm`).

    Args:
        settings: `lr`, `l1`, `epochs` and so on (`ScaleSettings`); the others are those of `fit`.
    """
    values = scale_norm.ScaleSettings.of(settings)
    subject, _ = make_subject(model, tokenizer, records, seed=seed, val=val, checkpoint=checkpoint, context=context)
    with at_work(subject, "train_scales") as part:
        adapter = scale_norm.train_scales(part, values)
    adapter.provenance = provenance_of(subject, "train_scales", values.model_dump(mode="json"))
    return adapter
