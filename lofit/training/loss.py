"""The task's own loss, on a batch and over a whole split."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lofit.adapters.base import Adapter
from lofit.models.forward import completion_logprobs, labelled_logits
from lofit.models.layout import HeadLayout
from lofit.models.prefix import KeptPrefix
from lofit.models.tokens import collate
from lofit.training.examples import Example, mean_over, rows_of
from lofit.training.objectives import completion_cross_entropy, dpo_loss


def task_loss(
    model: PreTrainedModel,
    examples: Sequence[Example],
    *,
    pad_id: int,
    beta: float,
    kept: KeptPrefix | None = None,
    adapter: Adapter | None = None,
) -> Tensor:
    """The task's own loss on a batch: DPO for preference pairs, else cross-entropy on the completions.

    Args:
        kept: what stands in for the lower layers.
        adapter: what is attached to the model; only one that acts at some positions needs to be named, and none within
            its `reading` of these rows.
    """
    rows = rows_of(examples)
    batch = collate(rows, pad_id=pad_id, device=model.device)
    labels = batch.pop("labels")
    reading = adapter.reading(rows, labels.shape[1]) if adapter else nullcontext()
    with reading, kept.in_place(rows, model.device) if kept else nullcontext():
        labelled = labelled_logits(model, batch, labels)
    if examples[0].rejected is None:
        return completion_cross_entropy(*labelled)
    chosen, rejected = completion_logprobs(*labelled).chunk(2)
    references = torch.tensor([example.reference for example in examples], device=model.device).T
    return dpo_loss(chosen, rejected, *references, beta=beta)


def mean_loss(
    model: PreTrainedModel,
    adapter: Adapter,
    examples: Sequence[Example],
    *,
    layout: HeadLayout | None = None,
    pad_id: int,
    beta: float,
    batch_size: int,
) -> float:
    """The task's loss over held-out examples, without penalty: one mean over all of them, whatever the batches."""
    with adapter.attach(model, layout):
        return attached_mean_loss(model, adapter, examples, pad_id=pad_id, beta=beta, batch_size=batch_size)


@torch.no_grad()
def attached_mean_loss(
    model: PreTrainedModel,
    adapter: Adapter,
    examples: Sequence[Example],
    *,
    pad_id: int,
    beta: float,
    batch_size: int,
) -> float:
    """`mean_loss` of an adapter that is attached already."""
    total = 0.0
    for first in range(0, len(examples), batch_size):
        batch = examples[first : first + batch_size]
        total += task_loss(model, batch, pad_id=pad_id, beta=beta, adapter=adapter).item() * mean_over(batch)
    return total / mean_over(examples)
