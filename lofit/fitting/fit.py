"""A whole method for callers: from records to an adapter."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lofit import methods, rankings
from lofit.errors import LofitError
from lofit.fitting.context import Context, Records, at_work, check_heads, make_subject, provenance_of
from lofit.fitting.effect import refuse_no_effect
from lofit.fitting.search import candidates, search
from lofit.fitting.select_heads import by_head, select_heads
from lofit.models.layout import Head
from lofit.training.subject import Subject

DEFAULT_SHARE = 0.1
"""Share of a model's heads that are tuned where K is left open: the larger of the paper's two."""


def fit(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    records: Records,
    *,
    method: str = "lofit",
    k: int | None = None,
    heads: Sequence[Head] | None = None,
    ranking: str | None = None,
    seed: int = 42,
    val: Records = (),
    checkpoint: Path | str | None = None,
    scale_settings: Mapping[str, Any] | None = None,
    ranking_settings: Mapping[str, Any] | None = None,
    tune: Mapping[str, Sequence[Any]] | None = None,
    context: Context | None = None,
    **settings: Any,
) -> Any:
    """Adapt `model` to `records` by a method; LoFiT trains scales, selects heads, and tunes their offsets.

    Args:
        method: a page of `lofit.methods`.
        k: how many heads to edit; 10 % of the model's where it is left open. Methods without heads take none.
        heads: the (layer, head) pairs to edit, in place of a ranking.
        ranking: a page of `lofit.rankings`; by default the method's own.
        seed: decides initial values and the order of the examples.
        val: held-out records; their loss is computed at the end.
        checkpoint: a folder. What is in it of an interrupted run with the same inputs is resumed, to the same result.
        scale_settings: of LoFiT's step 1, where the ranking needs it (`lofit.rankings.scale_norm.ScaleSettings`).
        ranking_settings: of the ranking (`Settings` on its page).
        tune: settings of the method to search, each with a list of values. Every combination is fitted and scored on
            `val` by the metric that the records' shape says; the best is returned, ties by the loss on `val`.
        settings: of the method (`Settings` on its page): `lr`, `epochs`, `batch_size` and so on.

    Returns:
        An adapter, for `with adapter.attach(model):`; a `lofit.HeadAdapter` for LoFiT. What it was fitted with is in
        `adapter.provenance.training`.

    Raises:
        LofitError: an argument, a record or the model is not fit for it; training diverges or leaves a tensor as it
            was; or the adapter changes nothing.
    """
    page = methods.find(method)
    points = candidates(page.Settings, settings, tune)
    subject, scoring = make_subject(
        model, tokenizer, records, seed=seed, val=val, checkpoint=checkpoint, context=context
    )
    if page.RANKING is None:
        for name, value in (("k", k), ("heads", heads), ("ranking", ranking)):
            if value is not None:
                raise LofitError(f"{name}: got {value!r}; expected none for {method}, which selects no heads")
        heads = []
    elif heads is not None:
        heads = check_heads(heads, subject)
        unused = {"k": k, "ranking": ranking, "ranking_settings": ranking_settings, "scale_settings": scale_settings}
        for key, given in unused.items():
            if given is not None:
                raise LofitError(f"{key}: got {given!r}; expected none, since heads are given")
    else:
        size = subject.layout.size
        k = max(1, round(DEFAULT_SHARE * size)) if k is None else k
        if type(k) is not int or not 1 <= k <= size:
            raise LofitError(f"k: got {k!r}; expected a whole number from 1 to {size}, the heads of the model")
        scores = rank_heads(subject, ranking or page.RANKING, ranking_settings, scale_settings)
        heads = select_heads(scores, k)
    chosen = sorted(heads)
    with at_work(subject, method) as part:
        if tune:
            if getattr(page, "NEEDS", None) == "activations":
                # Once for all candidates, each of which gets a copy of `part`.
                part.collected()
            adapter, values = search(part, points, lambda some, values: page.fit(some, values, chosen), scoring)
        else:
            values = points[0][1]
            adapter = page.fit(part, values, chosen)
        refuse_no_effect(part, adapter)
    adapter.provenance = provenance_of(subject, method, values.model_dump(mode="json"))
    return adapter


def rank_heads(
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
        with at_work(subject, ranking) as part:
            return page.rank(part, values, None)
    return page.rank(subject, values, given)
