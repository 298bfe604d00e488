"""Score a model on records, for callers."""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lofit.adapters.base import Adapter
from lofit.errors import LofitError
from lofit.models.runtime import check_model, deterministic, frozen
from lofit.scoring.metrics import means
from lofit.scoring.predict import predict, score_table
from lofit.tasks.plain import to_records
from lofit.tasks.record import Metric, Record


def score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    records: Iterable[Mapping[str, Any] | Record],
    *,
    adapter: Adapter | None = None,
    metric: Metric | None = None,
    batch_size: int = 32,
    max_new_tokens: int = 16,
) -> dict[str, float]:
    """Score `model` on records, as it is or with an adapter.

    Args:
        adapter: attached for the length of the call. One that acts at some positions only has to be given here; any
            other may as well be attached by the caller.
        metric: how to score; by default what the records' shape says: exact match of the generated answer, accuracy,
            or preference accuracy.
        max_new_tokens: length of a generated answer.

    Returns:
        The mean over the records, by the metric's name.
    """
    check_model(model, tokenizer)
    for argument, given, kind in (("adapter", adapter, Adapter), ("metric", metric, Metric)):
        if given is not None and not isinstance(given, kind):
            raise LofitError(f"{argument}: got {given!r}; expected an instance of {kind.__name__}")
    for name, value in (("batch_size", batch_size), ("max_new_tokens", max_new_tokens)):
        if type(value) is not int or value < 1:
            raise LofitError(f"{name}: got {value!r}; expected a whole number from 1")
    rows, _, default = to_records(records, tokenizer)
    metric = metric or default
    with ExitStack() as stack:
        stack.enter_context(frozen(model))
        stack.enter_context(deterministic())
        if adapter is not None:
            stack.enter_context(adapter.to(model.device).attach(model))
        predictions = predict(
            model,
            tokenizer,
            rows,
            metric,
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
            reading=adapter.reader if adapter else None,
        )
    return means({(1, 0): score_table(predictions, metric)})
