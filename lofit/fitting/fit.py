"""A whole method for callers: from records to an adapter."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lofit import methods
from lofit.errors import LofitError
from lofit.fitting.context import Context, Records, at_work, check_heads, make_subject, provenance_of
from lofit.fitting.effect import refuse_no_effect
from lofit.fitting.grid import Tune, candidates
from lofit.fitting.rank_heads import DEFAULT_SHARE, scores_of_heads
from lofit.fitting.select_heads import select_heads
from lofit.models.layout import Head
from lofit.pages import find_page
from lofit.training.settings import TrainingSettings
from lofit.training.stopping import refuse_blind_stop


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
    tune: Tune | None = None,
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
        val: held-out records; their loss is computed at the end, and decides when to stop if `stop_after` is set.
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
    for _, values in points:
        # Before a ranking trains for nothing.
        if isinstance(values, TrainingSettings):
            refuse_blind_stop(values, subject.val)
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
        scores = scores_of_heads(subject, ranking or page.RANKING, ranking_settings, scale_settings)
        heads = select_heads(scores, k)
    chosen = sorted(heads)
    began = time.monotonic()
    with at_work(subject, method) as part:
        if getattr(page, "NEEDS", None) == "activations":
            # Once for all candidates of a search.
            part.collected()
        if tune:
            # Found by name: only a fit that searches depends on how records are scored.
            searching = find_page("lofit.fitting", "search", what="page")
            adapter, values = searching.search(
                part, points, lambda some, values: page.fit(some, values, chosen), scoring
            )
        else:
            values = points[0][1]
            adapter = page.fit(part, values, chosen)
        # Nothing else tells how long a method takes that trains nothing.
        part.progress.seconds = part.progress.seconds or time.monotonic() - began
        refuse_no_effect(part, adapter)
    adapter.provenance = provenance_of(subject, method, values.model_dump(mode="json"))
    return adapter
