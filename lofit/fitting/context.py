"""What all fits share: their arguments, and how the model is treated meanwhile."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lofit.adapters.provenance import Provenance
from lofit.errors import LofitError
from lofit.models.layout import Head, HeadLayout, head_layout
from lofit.models.runtime import check_model, deterministic, frozen
from lofit.tasks.plain import shape_of_record, to_records
from lofit.tasks.record import Metric, Objective, Record
from lofit.training.loop import Progress
from lofit.training.reference import Pairs
from lofit.training.settings import Runtime
from lofit.training.subject import Subject

if TYPE_CHECKING:
    from lofit.training.activations import Activations

Records = Iterable[Mapping[str, Any] | Record]
"""Dicts of prompt and completion; prompt, chosen and rejected; or prompt, choices and answer. Or `Record`s."""


@dataclass(frozen=True)
class Scoring:
    """How a search scores its candidates on the validation records."""

    metric: Metric

    batch_size: int = 32

    max_new_tokens: int = 16


@dataclass
class Context:
    """What a caller may know already, or want to decide, besides the arguments of a fit."""

    layout: HeadLayout | None = None
    """Where the model's heads are; None to find them."""

    objective: Objective | None = None
    """How to train; None for what the records' shape says."""

    references: tuple[Pairs, Pairs] | None = None
    """DPO's reference for the records and for `val`; None to compute it."""

    task: str = ""
    """Goes into the adapter's card, and decides random heads."""

    draw: int = 1
    """Which draw of a random ranking."""

    runtime: Runtime | None = None
    """How training is carried out."""

    progress: Progress | None = None
    """Filled in while training goes on."""

    activations: "Activations | None" = None
    """What heads and layers put out on true and false answers, where it has been collected before."""

    scoring: Scoring | None = None
    """How a search scores its candidates; None for what the records' shape says."""


def make_subject(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    records: Records,
    *,
    seed: int,
    val: Records,
    checkpoint: Path | str | None,
    context: Context | None,
) -> tuple[Subject, Scoring]:
    """What methods and rankings work with, from the arguments of a fit, and how a search would score."""
    check_model(model, tokenizer)
    if type(seed) is not int or not 0 <= seed < 2**31:
        raise LofitError(f"seed: got {seed!r}; expected a whole number from 0 to {2**31 - 1}")
    context = context or Context()
    if checkpoint is not None and Path(checkpoint).is_file():
        raise LofitError(f"checkpoint: got {checkpoint}, a file; expected a folder")
    rows, objective, metric = to_records(records, tokenizer)
    held_out = list(val)
    held_out_rows = to_records(held_out, tokenizer)[0] if held_out else []
    shapes = [shape_of_record(row) for row in (*rows[:1], *held_out_rows[:1])]
    if len(set(shapes)) > 1:
        raise LofitError(f"val: got a {shapes[1]}; expected a {shapes[0]}, as the records are")
    subject = Subject(
        layout=context.layout or head_layout(model),
        model=model,
        tokenizer=tokenizer,
        records=rows,
        val=held_out_rows,
        objective=context.objective or objective,
        references=context.references,
        task=context.task,
        seed=seed,
        draw=context.draw,
        runtime=context.runtime or Runtime(),
        checkpoint=None if checkpoint is None else Path(checkpoint),
        progress=context.progress or Progress(),
        activations=context.activations,
    )
    return subject, context.scoring or Scoring(metric)


@contextmanager
def at_work(subject: Subject, step: str) -> Iterator[Subject]:
    """The subject of one step: its model frozen, its checkpoint in a folder of its own."""
    folder = subject.checkpoint and subject.checkpoint / step
    with frozen(subject.model), deterministic():
        yield replace(subject, checkpoint=folder, title=step)


def provenance_of(subject: Subject, method: str, parameters: Mapping[str, Any]) -> Provenance:
    """What is known here of the making of an adapter."""
    config = getattr(subject.model, "config", None)
    training: dict[str, Any] = {"task": subject.task} if subject.task else {}
    training |= {"method": method, "seed": subject.seed, "parameters": dict(parameters)}
    return Provenance.made_now(
        getattr(config, "_name_or_path", None) or None,
        getattr(config, "_commit_hash", None),
        subject.layout,
        training=training,
    )


def check_heads(heads: Sequence[Head], subject: Subject) -> list[Head]:
    """The heads as (layer, head) pairs, lists and arrays alike.

    Raises:
        LofitError: they are no pairs, or none of the model's.
    """
    try:
        pairs = [(int(layer), int(head)) for layer, head in heads]
    except (TypeError, ValueError):
        raise LofitError(f"heads: got {heads!r}; expected pairs of whole numbers, (layer, head)") from None
    if not pairs:
        raise LofitError("heads: got none; expected at least one (layer, head)")
    known = set(subject.layout.all_heads())
    if unknown := [pair for pair in pairs if pair not in known]:
        layers, count = subject.layout.grid
        raise LofitError(f"heads: got {unknown[0]}; expected layers 0 to {layers - 1} and heads 0 to {count - 1}")
    return pairs
