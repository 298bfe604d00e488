"""What the two training steps minimise: pure functions of logits and log-probabilities."""

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100
"""Label of a token that takes no part in a loss."""


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


def completion_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean negative log-probability over all labelled tokens of the batch, in nats (LoFiT section 3)."""
    return -completion_logprobs(logits, labels).sum() / (labels[:, 1:] != IGNORED).sum()


def dpo_loss(chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, *, beta: float) -> Tensor:
    """Direct preference optimisation, sigmoid form (Rafailov et al. 2023, equation 7), averaged over pairs.

    Args:
        chosen, rejected: B log-probabilities of the completions under the model being tuned.
        ref_chosen, ref_rejected: the same under the untouched base model.
        beta: strength of the pull towards the reference.
    """
    margin = (chosen - ref_chosen) - (rejected - ref_rejected)
    return -F.logsigmoid(beta * margin).mean()


def l1_penalty(vectors: Tensor | None, *, weight: float) -> Tensor:
    """`weight` times the sum (not the mean) of absolute values (LoFiT section 3, as in the published code)."""
    return torch.zeros(()) if vectors is None else weight * vectors.abs().sum()
