"""The training loop: an adapter is trained, the model stays as it is."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm
from transformers import PreTrainedModel

from lofit.adapters.base import Adapter
from lofit.errors import LofitError
from lofit.models.layout import HeadLayout, head_layout
from lofit.models.prefix import KeptPrefix, PrefixBudget, keep_prefix
from lofit.training.checkpoint import Checkpoint, load_optimizer_tensors, optimizer_tensors
from lofit.training.examples import Example, mean_over, rows_of
from lofit.training.loss import attached_mean_loss, task_loss
from lofit.training.settings import Runtime, TrainingSettings
from lofit.training.stopping import best_epoch, is_over

Penalty = Callable[[], Tensor]
"""What is added to the task's loss in each step, such as an L1 term."""


@dataclass
class Progress:
    """What a run of training tells of itself."""

    name: str = ""
    """What its progress bar and its messages are called; by default, what the step is called."""

    on_step: Callable[[dict], None] = lambda row: None
    """Called with each step's row, also with those of a run that is resumed."""

    history: list[dict] = field(default_factory=list)
    """One row per step: step, epoch, loss, penalty, lr; with `stop_after`, the last one of an epoch has val_loss."""

    val_loss: float | None = None
    """The task's loss on the validation records, where there are any."""

    seconds: float = 0.0
    """What the steps have taken, those before an interruption included."""

    search_seconds: float = 0.0
    """Where settings were searched: what all trials have taken, less those that had been made before."""

    trials: list[dict] = field(default_factory=list)
    """Where settings were searched: those of each trial, its score and its loss on the validation records."""

    @property
    def kept_epoch(self) -> int | None:
        """The epoch whose numbers the adapter has, from 1, where that is the best one by the validation records."""
        return best_epoch(self.history)

    def adopt(self, other: "Progress") -> None:
        """Tell what another run of training has told, as if it had been this one."""
        self.history[:] = other.history
        self.val_loss, self.seconds = other.val_loss, other.seconds
        for row in other.history:
            self.on_step(row)


def parts(batch: Sequence[Example], size: int | None, accelerator: Accelerator) -> Iterator[Sequence[Example]]:
    """This process's share of a batch, `size` examples at a time."""
    share = batch[accelerator.process_index :: accelerator.num_processes]
    size = size or len(batch)
    for first in range(0, len(share), size):
        yield share[first : first + size]


def shuffled(count: int, *, seed: int, epoch: int) -> list[int]:
    """The order of an epoch, a function of seed and epoch alone, so that a resumed run meets the same batches."""
    generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
    return torch.randperm(count, generator=generator).tolist()


def train(
    model: PreTrainedModel,
    adapter: Adapter,
    examples: Sequence[Example],
    settings: TrainingSettings,
    *,
    seed: int,
    pad_id: int,
    val: Sequence[Example] = (),
    layout: HeadLayout | None = None,
    penalty: Penalty | None = None,
    runtime: Runtime = Runtime(),  # noqa: B008
    accelerator: Accelerator | None = None,
    checkpoint: Checkpoint | None = None,
    progress: Progress | None = None,
    title: str = "train",
) -> list[dict]:
    """Train the parameters of `adapter` in place; returns one row per step: step, epoch, loss, penalty, lr.

    AdamW without weight decay, linear decay to zero without warm-up, gradients clipped to norm 1 (LoFiT appendix C.1;
    weight decay as in the published code). `loss` is the task's own, `penalty` what was added to it.

    The processes of `accelerator` divide every batch among themselves and add up their gradients, so that the result
    does not depend on how many there are.

    Args:
        val: what `stop_after` goes by, and needs.

    Raises:
        LofitError: the loss or a parameter is no longer finite.
    """
    accelerator = accelerator or Accelerator(cpu=model.device.type == "cpu")
    checkpoint = checkpoint or Checkpoint(None)
    progress = progress or Progress()
    layout = layout or head_layout(model)
    parameters = [parameter for parameter in adapter.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW([{"params": parameters, "initial_lr": settings.lr}], lr=settings.lr, weight_decay=0.0)
    steps_per_epoch = -(-len(examples) // settings.batch_size)
    total = settings.epochs * steps_per_epoch
    history = progress.history
    history.clear()
    done, before, began = 0, 0.0, time.monotonic()
    initial = [parameter.detach().clone() for parameter in parameters]
    best: dict[str, Tensor] = {}
    if (unfinished := checkpoint.load()) is not None:
        done, tensors, rows = unfinished
        before = checkpoint.seconds_before
        over = done == total or is_over(rows, settings.stop_after)
        tqdm.write(f"{title}: {'finished before' if over else f'resuming at step {done} of {total}'}")
        adapter.load_state_dict({name: tensors[f"adapter.{name}"] for name in adapter.state_dict()})
        best = {name: tensors[f"best.{name}"] for name in adapter.state_dict() if f"best.{name}" in tensors}
        load_optimizer_tensors(optimizer, tensors)
        history += rows
        for row in rows:
            progress.on_step(row)
    # Not transformers' schedule of the same form: importing it costs every process some seconds.
    schedule = LambdaLR(optimizer, lambda step: max(0.0, (total - step) / max(1, total)), last_epoch=done - 1)

    kept = None
    steps = range(done, done if is_over(history, settings.stop_after) else total)
    if runtime.keep_prefix and adapter.lowest_layer and settings.epochs > 1 and steps:
        kept = keep_prefix(
            model,
            layout,
            adapter.lowest_layer,
            rows_of(examples),
            pad_id=pad_id,
            batch_size=runtime.micro_batch_size or settings.batch_size,
            budget=PrefixBudget(runtime.prefix_memory_gb, runtime.scratch),
            name=title,
        )
    loss_on_val = partial(
        attached_mean_loss,
        model,
        adapter,
        val,
        pad_id=pad_id,
        beta=settings.beta,
        batch_size=runtime.micro_batch_size or settings.batch_size,
    )
    bar = tqdm(total=total, initial=done, desc=title, unit="step")
    with adapter.attach(model, layout), bar:
        for step in steps:
            epoch, at = divmod(step, steps_per_epoch)
            if step == done or at == 0:
                order = shuffled(len(examples), seed=seed, epoch=epoch)
            batch = [examples[i] for i in order[at * settings.batch_size : (at + 1) * settings.batch_size]]
            adapter.begin_step(step)
            loss, added = gradients(
                model,
                adapter,
                batch,
                pad_id=pad_id,
                beta=settings.beta,
                micro_batch_size=runtime.micro_batch_size,
                accelerator=accelerator,
                penalty=penalty,
                kept=kept,
            )
            accelerator.clip_grad_norm_(parameters, 1.0)
            lr = schedule.get_last_lr()[0]
            optimizer.step()
            adapter.end_step(float(lr))
            schedule.step()
            optimizer.zero_grad()
            row = {"step": step + 1, "epoch": epoch + 1, "loss": loss, "penalty": added, "lr": lr}
            if not math.isfinite(row["loss"] + row["penalty"]):
                raise LofitError(f"{title}: the loss is {row['loss']} at step {step + 1}; lower lr, {settings.lr}")
            history.append(row)
            over = step + 1 == total
            if settings.stop_after is not None and at + 1 == steps_per_epoch:
                row["val_loss"] = agreed(loss_on_val(), accelerator)
                if not math.isfinite(row["val_loss"]):
                    raise LofitError(f"{title}: the val loss is {row['val_loss']}; lower lr, {settings.lr}")
                if best_epoch(history) == epoch + 1:
                    best = {name: value.detach().to("cpu", copy=True) for name, value in adapter.state_dict().items()}
                over = over or is_over(history, settings.stop_after)
            progress.on_step(row)
            bar.update()
            bar.set_postfix(loss=f"{row['loss']:.3f}", refresh=False)
            if accelerator.is_main_process and (over or checkpoint.due()):
                state = {f"adapter.{name}": value for name, value in adapter.state_dict().items()}
                state |= {f"best.{name}": value for name, value in best.items()}
                # Nothing is left to do for the optimizer's state after the last step.
                state |= {} if over else optimizer_tensors(optimizer)
                checkpoint.save(step + 1, state, history, spent=before + time.monotonic() - began)
            if over:
                break
    # Squares must stay finite too: heads are ranked by norms.
    if not all(parameter.square().sum().isfinite() for parameter in parameters):
        raise LofitError(f"{title}: parameters have grown beyond all bounds; lower lr, {settings.lr}")
    if total > 1:
        refuse_unmoved(adapter, initial, title)
    if best:
        adapter.load_state_dict(best)
    if best and accelerator.is_main_process:
        tqdm.write(f"{title}: epoch {progress.kept_epoch} of {history[-1]['epoch']} is kept, the best on val")
    progress.seconds = before + time.monotonic() - began
    return history


def agreed(value: float, accelerator: Accelerator) -> float:
    """The first process's `value` in all of them: they have to stop together, whatever they round differently."""
    if accelerator.num_processes == 1:
        return value
    own = value if accelerator.is_main_process else 0.0
    return accelerator.reduce(torch.tensor(own, device=accelerator.device), "sum").item()


def refuse_unmoved(adapter: Adapter, initial: Sequence[Tensor], title: str) -> None:
    """A LofitError where training has left a tensor as it was: nothing depends on it, or its dtype rounds steps away.

    Published checkpoints hold such tensors: the scales of RED for Llama are 1 to the last bit.
    """
    named = [(name, value) for name, value in adapter.named_parameters() if value.requires_grad]
    for (name, value), before in zip(named, initial, strict=True):
        if value.numel() and torch.equal(value.detach(), before.to(value.device)):
            raise LofitError(f"{title}: {name} has not moved in training; expected every trained tensor to change")


def gradients(
    model: PreTrainedModel,
    adapter: Adapter,
    batch: Sequence[Example],
    *,
    pad_id: int,
    beta: float,
    micro_batch_size: int | None = None,
    accelerator: Accelerator,
    penalty: Penalty | None = None,
    kept: KeptPrefix | None = None,
) -> tuple[float, float]:
    """Give the parameters of `adapter` their gradients on a batch, over all processes; returns loss and penalty."""
    whole = mean_over(batch)
    added = penalty() if penalty else torch.zeros(())
    if accelerator.is_main_process and added.requires_grad:
        accelerator.backward(added)
    total = 0.0
    for part in parts(batch, micro_batch_size, accelerator):
        rows = rows_of(part)
        # Also in the backward pass, where layers may make their activations again.
        with adapter.reading(rows, max(len(row.ids) for row in rows)):
            loss = task_loss(model, part, pad_id=pad_id, beta=beta, kept=kept)
            loss = loss * (mean_over(part) / whole)
            accelerator.backward(loss)
        total += loss.item()
    for parameter in (parameter for parameter in adapter.parameters() if parameter.requires_grad):
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        parameter.grad = accelerator.reduce(gradient, "sum")
    return accelerator.reduce(torch.tensor(total, device=accelerator.device), "sum").item(), added.item()
