"""Activations: what heads and layers put out on true and false answers, for probes, ITI and RepE."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lofit.models.layout import HeadLayout
from lofit.tasks.record import Record


@dataclass(frozen=True)
class Activations:
    """At the last token of N answers, each read after its prompt; and at that of M question ends."""

    heads: np.ndarray
    """N x layers x heads x head_dim, float16: the input of the output projections."""

    blocks: np.ndarray
    """N x layers x hidden, float16: the output of the layers that hold these heads."""

    labels: np.ndarray
    """N, bool: whether the answer is true."""

    questions: np.ndarray
    """N: the place of the record among those of both splits; true and false answers of one question share it."""

    in_val: np.ndarray
    """N, bool: whether the record is one of validation."""

    question_ends: np.ndarray
    """M x layers x heads x head_dim, float16: heads at the end of a question that follows an answer."""


def collect(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    layout: HeadLayout,
    records: Sequence[Record],
    val: Sequence[Record],
    *,
    seed: int,
    folder: Path | None = None,
    batch_size: int = 8,
) -> Activations:
    """Read every answer of the records once."""
    raise NotImplementedError
