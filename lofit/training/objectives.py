"""What the two training steps minimise: pure functions of logits and log-probabilities."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lofit.models.forward import completion_logprobs
from lofit.models.tokens import IGNORED


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
