"""A pass through a model that makes logits only where a label is, and what such logits say of the labels."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from lofit.models.tokens import IGNORED


def labelled_logits(model: PreTrainedModel, batch: Mapping[str, Any], labels: Tensor) -> tuple[Tensor, Tensor]:
    """The logits that predict labelled tokens, and labels to go with them.

    A vocabulary is large and completions are short: most of a model's logits would be thrown away. The output
    embeddings get the hidden states of at most C + 1 positions of a row, where C is the longest completion.

    Args:
        batch: the model's inputs, B x T; with `past_key_values`, what continues them.
        labels: B x T token ids, `IGNORED` where a token does not count.

    Returns:
        B x (C + 1) x V logits and B x (C + 1) labels, for which `completion_logprobs`
        and the objectives give what they give for all of them.
    """
    counted = labels[:, 1:] != IGNORED
    # The counted positions of each row, in their order, then as many others as a shorter completion needs.
    places = counted.int().argsort(dim=1, descending=True, stable=True)[:, : int(counted.sum(1).max())]
    kept = labels[:, 1:].gather(1, places)
    # Position t predicts label t + 1: one more position at the end, and one more label in front.
    places = nn.functional.pad(places, (0, 1))
    kept = nn.functional.pad(kept, (1, 0), value=IGNORED)

    def pick(_: nn.Module, args: tuple) -> tuple:
        hidden, *rest = args
        index = places.to(hidden.device)[..., None].expand(-1, -1, hidden.shape[-1])
        return (hidden.gather(1, index), *rest)

    head = model.get_output_embeddings()
    with head.register_forward_pre_hook(pick):
        logits = model(**{"use_cache": False, **batch}).logits
    return logits, kept


def completion_logprobs(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum of the log-probabilities of each row's labelled tokens.

    Args:
        logits: B x T x V; position t predicts token t + 1.
        labels: B x T token ids, `IGNORED` where a token does not count.

    Returns:
        B numbers, in nats and float32.
    """
    targets = labels[:, 1:]
    counted = targets != IGNORED
    logprobs = logits[:, :-1].float().log_softmax(-1)
    picked = logprobs.gather(-1, targets.masked_fill(~counted, 0)[..., None]).squeeze(-1)
    return picked.masked_fill(~counted, 0).sum(-1)
