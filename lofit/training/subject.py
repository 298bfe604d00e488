"""Subject: what a ranking or a method gets to work with."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING

from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lofit.adapters.base import Adapter
from lofit.models.runtime import activation_checkpointing
from lofit.models.vocabulary import vocabulary_of
from lofit.settings import Settings
from lofit.tasks.record import Objective, Record
from lofit.training import loop
from lofit.training.case import Case
from lofit.training.checkpoint import Checkpoint, fingerprint
from lofit.training.examples import Example, prepare, rows_of
from lofit.training.loss import mean_loss, task_loss
from lofit.training.reference import Pairs, pair_logprobs
from lofit.training.settings import Runtime, TrainingSettings
from lofit.training.stopping import refuse_blind_stop

if TYPE_CHECKING:
    from lofit.training.activations import Activations


@dataclass(kw_only=True)
class Subject(Case):
    """A frozen model and the records of one fold, and how to train on them."""

    model: PreTrainedModel

    tokenizer: PreTrainedTokenizerBase

    records: list[Record]
    """What to train on."""

    val: list[Record] = field(default_factory=list)
    """Held-out records, whose loss is computed after training, and after each epoch for `stop_after`; may be empty."""

    objective: Objective = Objective("cross_entropy")  # noqa: RUF009

    references: tuple[Pairs, Pairs] | None = None
    """DPO's reference for `records` and for `val`, where it has been computed before."""

    runtime: Runtime = Runtime()  # noqa: RUF009

    checkpoint: Path | None = None
    """Folder that training resumes from."""

    keeps_runs: bool = False
    """Whether that folder keeps every run of training in a folder of its own, to be found again when it is wanted."""

    activations: "Activations | None" = None
    """What heads and layers put out on true and false answers, where it has been collected before."""

    progress: loop.Progress = field(default_factory=loop.Progress)

    before_training: tuple[Pairs, Pairs] | None = field(default=None, init=False)
    """DPO's reference of the last run of training, where that is the adapter as it was before."""

    title: str = "train"
    """What the progress bar and the messages of training are called, where `progress` has no name for it."""

    def train(self, adapter: Adapter, settings: TrainingSettings, *, penalty: loop.Penalty | None = None) -> list[dict]:
        """Train the parameters of `adapter` on the records; returns one row per step (see `lofit.training.loop`).

        Raises:
            LofitError: a record is too long or cannot be tokenised, training diverges, or should stop by validation
                records where there are none.
        """
        refuse_blind_stop(settings, self.val)
        model = self.model
        adapter.to(model.device)
        self.before_training = None
        splits = self._examples(adapter, settings.max_length)
        facts = (settings.model_dump(), self.seed, describe(adapter), sample(model))
        inputs = fingerprint(*facts, *adapter.state_dict().values(), *map(repr, splits))
        folder = self.checkpoint / inputs if self.checkpoint and self.keeps_runs else self.checkpoint
        with activation_checkpointing(model) if self.runtime.gradient_checkpointing else nullcontext():
            rows = loop.train(
                model,
                adapter,
                splits[0],
                settings,
                seed=self.seed,
                pad_id=vocabulary_of(model, self.tokenizer).padding,
                val=splits[1],
                layout=self.layout,
                penalty=penalty,
                runtime=self.runtime,
                accelerator=Accelerator(cpu=model.device.type == "cpu"),
                checkpoint=Checkpoint(folder, inputs=inputs),
                progress=self.progress,
                title=self.progress.name or self.title,
            )
        if splits[1] and not self.keeps_runs:
            self.progress.val_loss = self._mean_loss(adapter, splits[1], settings)
        return rows

    def loss_on_val(self, adapter: Adapter, settings: Settings) -> float:
        """The task's loss on the validation records, trained or not, without penalty.

        DPO's reference is that of training; of an adapter that was not trained, the base model.
        """
        trained = self.loss_settings(settings)
        return self._mean_loss(adapter, self._examples(None, trained.max_length)[1], trained)

    def score_reference(self) -> None:
        """Compute DPO's reference for all fits of this subject, where data and base model alone decide it."""
        if self.objective.shares_reference and self.references is None:
            self.references = self._score_pairs(None)

    def record_losses(self, adapter: Adapter, settings: Settings) -> Iterator[Tensor]:
        """The task's loss of each training record by itself, with what it was computed from, in their order.

        The adapter is attached, and trained no step. A loss is to be used before the next one is asked for.

        Raises:
            LofitError: a record is too long or cannot be tokenised.
        """
        adapter.to(self.model.device)
        trained = self.loss_settings(settings)
        pad_id = vocabulary_of(self.model, self.tokenizer).padding
        examples = self._examples(adapter, trained.max_length)[0]
        checkpointing = activation_checkpointing if self.runtime.gradient_checkpointing else nullcontext
        with checkpointing(self.model), adapter.attach(self.model, self.layout):
            for example in tqdm(examples, desc=self.progress.name or self.title, unit="record"):
                rows = rows_of([example])
                # Also while the caller goes back through the layers, which may make their activations again.
                with adapter.reading(rows, max(len(row.ids) for row in rows)):
                    yield task_loss(self.model, [example], pad_id=pad_id, beta=trained.beta)

    @staticmethod
    def loss_settings(settings: Settings) -> TrainingSettings:
        """What of a method's settings the loss depends on: those of training; the defaults where nothing is trained."""
        own = {
            name: getattr(settings, name) for name in ("beta", "max_length", "batch_size") if hasattr(settings, name)
        }
        return TrainingSettings(lr=1.0, **own)

    def collected(self) -> "Activations":
        """What heads and layers put out on true and false answers: as it was collected before, or now.

        Raises:
            LofitError: the records have no wrong answers to contrast with.
        """
        if self.activations is None:
            from lofit.training.activations import collect

            self.activations = collect(self.model, self.tokenizer, self.layout, self.records, self.val, seed=self.seed)
        return self.activations

    def _mean_loss(self, adapter: Adapter, examples: list[Example], settings: TrainingSettings) -> float:
        return mean_loss(
            self.model,
            adapter,
            examples,
            layout=self.layout,
            pad_id=vocabulary_of(self.model, self.tokenizer).padding,
            beta=settings.beta,
            batch_size=self.runtime.micro_batch_size or settings.batch_size,
        )

    def _examples(self, adapter: Adapter | None, max_length: int) -> tuple[list[Example], list[Example]]:
        """The training and the validation records as tokens, with DPO's reference where they are pairs.

        Args:
            adapter: as it is before training, which may be the reference; None where it has been trained.
        """
        references = None
        if self.objective.kind == "dpo":
            references = self.references or self.before_training or self._score_pairs(adapter)
            if adapter is not None and not self.objective.shares_reference:
                self.before_training = references
        vocabulary = vocabulary_of(self.model, self.tokenizer)
        train, val = (
            prepare(
                self.tokenizer,
                records,
                self.objective,
                vocabulary,
                max_length=max_length,
                references=references[index] if references else None,
            )
            for index, records in enumerate((self.records, self.val))
        )
        return train, val

    def _score_pairs(self, adapter: Adapter | None) -> tuple[Pairs, Pairs]:
        """DPO's reference, under the model as it is or with the adapter as it is before training."""
        initial = adapter if self.objective.reference == "initial" else None
        reading = initial.reader if initial else None
        with initial.attach(self.model, self.layout) if initial else nullcontext():
            return (
                pair_logprobs(self.model, self.tokenizer, self.records, self.objective, reading=reading),
                pair_logprobs(self.model, self.tokenizer, self.val, self.objective, reading=reading),
            )


def describe(adapter: Adapter) -> dict:
    """What an adapter is besides its numbers: its class, and its attributes that JSON can hold, such as its heads."""
    plain = (bool, int, float, str, list, tuple, dict, NoneType)
    known = {name: value for name, value in vars(adapter).items() if name[0] != "_" and isinstance(value, plain)}
    return {"class": type(adapter).__qualname__, **known, "tensors": list(adapter.state_dict())}


def sample(model: PreTrainedModel) -> dict:
    """A few numbers of every weight: enough to tell two models apart, at no cost worth speaking of."""

    def numbers(weight: Tensor) -> list[float]:
        # Weights that are offloaded have none here.
        return [] if weight.is_meta else weight.detach().flatten()[:: max(1, weight.numel() // 8)][:8].tolist()

    return {name: [str(weight.dtype), *weight.shape, *numbers(weight)] for name, weight in model.named_parameters()}
