"""Scores of all heads by a ranking, for callers."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lofit import rankings
from lofit.errors import LofitError
from lofit.fitting.context import Context, Records, at_work, make_subject
from lofit.fitting.select_heads import by_head
from lofit.training.subject import Subject

DEFAULT_SHARE = 0.1
"""Share of a model's heads that are tuned where K is left open: the larger of the paper's two."""


def rank_heads(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    records: Records,
    *,
    ranking: str = "scale_norm",
    seed: int = 42,
    val: Records = (),
    checkpoint: Path | str | None = None,
    scale_settings: Mapping[str, Any] | None = None,
    context: Context | None = None,
    **settings: Any,
) -> np.ndarray:
    """Layers x heads scores, the highest for the best head, for `select_heads`.

    Args:
        ranking: a page of `lofit.rankings`.
        settings: of the ranking (`Settings` on its page); the others are those of `fit`.

    Raises:
        LofitError: an argument, a record or the model is not fit for it; or training diverges.
    """
    page = rankings.find(ranking)
    page.Settings.of(settings)
    subject, _ = make_subject(model, tokenizer, records, seed=seed, val=val, checkpoint=checkpoint, context=context)
    return scores_of_heads(subject, ranking, settings, scale_settings)


def scores_of_heads(
    subject: Subject,
    ranking: str,
    ranking_settings: Mapping[str, Any] | None = None,
    scale_settings: Mapping[str, Any] | None = None,
) -> np.ndarray:
    """Layers x heads scores by a page of `lofit.rankings`; what the page needs for that is made here."""
    page = rankings.find(ranking)
    values = page.Settings.of(ranking_settings or {})
    if page.NEEDS == "other_scales":
        raise LofitError(f"ranking: got {ranking!r}; expected `heads` in its place, selected on the other task")
    if scale_settings and page.NEEDS != "scales":
        raise LofitError(
            f"scale_settings: got {dict(scale_settings)!r}; expected none for {ranking}, which trains no scales"
        )
    given: Any = None
    if page.NEEDS == "scales":
        # Found by name: only a ranking that needs step 1 depends on its page.
        step_1 = rankings.find("scale_norm")
        with at_work(subject, "train_scales") as part:
            given = by_head(step_1.train_scales(part, step_1.ScaleSettings.of(scale_settings or {})))
    elif page.NEEDS == "activations":
        with at_work(subject, ranking) as part:
            given = part.collected()
            # The method may want them, too.
            subject.activations = given
    elif page.NEEDS == "subject":
        began = time.monotonic()
        with at_work(subject, ranking) as part:
            scores = page.rank(part, values, None)
        subject.progress.seconds = max(subject.progress.seconds, time.monotonic() - began)
        return scores
    return page.rank(subject, values, given)
