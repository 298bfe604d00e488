"""An edit that changes nothing is a fault, not a result."""

import torch

from lofit.adapters.base import Adapter
from lofit.errors import LofitError
from lofit.models.forward import labelled_logits
from lofit.models.tokens import collate, encode
from lofit.models.vocabulary import vocabulary_of
from lofit.training.subject import Subject

RECORDS = 4


@torch.no_grad()
def refuse_no_effect(subject: Subject, adapter: Adapter) -> None:
    """Compare logits at completions with and without the adapter.

    A published implementation of ITI edits one position whose logits nobody reads, and scores the base model.

    Raises:
        LofitError: all are equal to the bit, though the adapter's numbers are not all zero.
    """
    if adapter.is_idle:
        return
    model, records = subject.model, subject.records[:RECORDS]
    rows = [encode(subject.tokenizer, record.prompt, record.completion) for record in records]
    batch = collate(rows, pad_id=vocabulary_of(model, subject.tokenizer).padding, device=model.device)
    labels = batch.pop("labels")
    before, _ = labelled_logits(model, batch, labels)
    with adapter.to(model.device).attach(model, subject.layout), adapter.reading(rows, labels.shape[1]):
        after, _ = labelled_logits(model, batch, labels)
    if torch.equal(before, after):
        raise LofitError(
            f"{subject.title}: the adapter changes no logit of the first {len(rows)} completions; expected an edit "
            "that the model's answers feel"
        )
