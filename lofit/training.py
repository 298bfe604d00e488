"""The training loop of both steps: a few vectors are trained, the model stays as it is."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase, get_linear_schedule_with_warmup

from lofit.adapter import HeadAdapter
from lofit.checkpoint import Checkpoint, load_optimizer_tensors, optimizer_tensors
from lofit.completions import Encoded, collate, encode_record
from lofit.errors import LofitError
from lofit.forward import labelled_logits
from lofit.heads import HeadLayout, head_layout
from lofit.kept_prefix import KeptPrefix, Room, keep_prefix
from lofit.objectives import completion_cross_entropy, completion_logprobs, dpo_loss, l1_penalty
from lofit.tasks.record import Judgement, Record

INIT_STD = 0.001
"""Standard deviation of fresh vectors (LoFiT appendix D.1)."""


@dataclass(frozen=True)
class Settings:
    """What decides a run of `train`, beside its examples."""

    lr: float

    epochs: int

    batch_size: int

    seed: int

    l1: float = 0.0
    """Weight of the L1 penalty on the scales."""

    micro_batch_size: int | None = None
    """Examples in one forward pass; None for the whole batch."""


@dataclass(frozen=True)
class Example:
    """A record as tokens. A preference pair carries its completions' log-probabilities under DPO's reference."""

    chosen: Encoded

    rejected: Encoded | None = None

    reference: tuple[float, float] | None = None


def fresh_vectors(rows: int, head_dim: int, *, seed: int) -> Tensor:
    """rows x head_dim numbers drawn from N(0, 0.001)."""
    return INIT_STD * torch.randn(rows, head_dim, generator=torch.Generator().manual_seed(seed))


def prepare(
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[Record],
    judgement: Judgement,
    *,
    max_length: int,
    references: Iterable[tuple[float, float]] | None = None,
) -> list[Example]:
    """Tokenise records for training; DPO needs the `references` of `lofit.reference`, one for each record.

    Raises:
        LofitError: a record cannot be tokenised, or is longer than `max_length` tokens.
    """
    rows = [encode_record(tokenizer, record, judgement, max_length=max_length) for record in records]
    if references is None:
        return [Example(*row) for row in rows]
    return [Example(*row, reference) for row, reference in zip(rows, references, strict=True)]


def rows_of(examples: Sequence[Example]) -> list[Encoded]:
    """The rows that go through the model: all completions, then, of pairs, all rejected ones."""
    rejected = [example.rejected for example in examples if example.rejected is not None]
    return [example.chosen for example in examples] + rejected


def task_loss(
    model: PreTrainedModel, examples: Sequence[Example], *, pad_id: int, beta: float, kept: KeptPrefix | None = None
) -> Tensor:
    """The task's own loss on a batch: DPO for preference pairs, else cross-entropy on the completions.

    `kept` is what stands in for the lower layers.
    """
    rows = rows_of(examples)
    batch = collate(rows, pad_id=pad_id, device=model.device)
    labels = batch.pop("labels")
    with kept.in_place(rows, model.device) if kept else nullcontext():
        labelled = labelled_logits(model, batch, labels)
    if examples[0].rejected is None:
        return completion_cross_entropy(*labelled)
    chosen, rejected = completion_logprobs(*labelled).chunk(2)
    references = torch.tensor([example.reference for example in examples], device=model.device).T
    return dpo_loss(chosen, rejected, *references, beta=beta)


def mean_over(examples: Sequence[Example]) -> int:
    """What the task's loss is a mean over: pairs, or the completions' tokens."""
    if examples[0].rejected is not None:
        return len(examples)
    # The first token of a sequence is never predicted.
    return sum(len(example.chosen.ids) - max(example.chosen.start, 1) for example in examples)


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
    adapter: HeadAdapter,
    examples: Sequence[Example],
    settings: Settings,
    *,
    layout: HeadLayout | None = None,
    pad_id: int,
    beta: float,
    accelerator: Accelerator,
    checkpoint: Checkpoint,
    description: str,
    on_step: Callable[[dict], None] = lambda row: None,
    room: Room | None = None,
) -> list[dict]:
    """Train the vectors of `adapter` in place; returns one row per step: step, epoch, loss, penalty, lr.

    AdamW without weight decay, linear decay to zero without warm-up, gradients clipped to norm 1 (LoFiT appendix C.1;
    weight decay as in the published code). `loss` is the task's own, `penalty` the L1 term added to it.

    The processes of `accelerator` divide every batch among themselves and add up their gradients, so that the vectors
    do not depend on how many there are.

    Args:
        room: where the output of the layers below the lowest edited head may be kept from the first epoch on; None for
            nowhere, so that every step runs all layers.

    Raises:
        LofitError: the loss or a vector is no longer finite.
    """
    vectors = list(adapter.parameters())
    optimizer = torch.optim.AdamW([{"params": vectors, "initial_lr": settings.lr}], lr=settings.lr, weight_decay=0.0)
    steps_per_epoch = -(-len(examples) // settings.batch_size)
    total = settings.epochs * steps_per_epoch
    history: list[dict] = []
    done = 0
    if (unfinished := checkpoint.load()) is not None:
        done, tensors, history = unfinished
        tqdm.write(f"{description}: resuming at step {done} of {total}")
        adapter.load_state_dict({name: tensors[f"adapter.{name}"] for name in adapter.state_dict()})
        load_optimizer_tensors(optimizer, tensors)
        for row in history:
            on_step(row)
    schedule = get_linear_schedule_with_warmup(optimizer, 0, total, last_epoch=done - 1)

    kept = None
    if room is not None and total - done > steps_per_epoch:
        size = settings.micro_batch_size or settings.batch_size
        kept = keep_prefix(
            model,
            layout or head_layout(model),
            adapter.heads,
            rows_of(examples),
            pad_id=pad_id,
            batch_size=size,
            room=room,
            name=description,
        )
    bar = tqdm(total=total, initial=done, desc=description, unit="step")
    with adapter.attach(model, layout), bar:
        for step in range(done, total):
            epoch, at = divmod(step, steps_per_epoch)
            if step == done or at == 0:
                order = shuffled(len(examples), seed=settings.seed, epoch=epoch)
            batch = [examples[i] for i in order[at * settings.batch_size : (at + 1) * settings.batch_size]]
            loss, penalty = gradients(
                model, adapter, batch, settings, pad_id=pad_id, beta=beta, accelerator=accelerator, kept=kept
            )
            accelerator.clip_grad_norm_(vectors, 1.0)
            lr = schedule.get_last_lr()[0]
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            row = {"step": step + 1, "epoch": epoch + 1, "loss": loss, "penalty": penalty, "lr": lr}
            if not math.isfinite(row["loss"] + row["penalty"]):
                raise LofitError(
                    f"{description}: the loss is {row['loss']} at step {step + 1}; lower lr, {settings.lr}"
                )
            history.append(row)
            on_step(row)
            bar.update()
            bar.set_postfix(loss=f"{row['loss']:.3f}", refresh=False)
            if accelerator.is_main_process and (checkpoint.due(step + 1) or step + 1 == total):
                state = {f"adapter.{name}": value for name, value in adapter.state_dict().items()}
                checkpoint.save(step + 1, {**state, **optimizer_tensors(optimizer)}, history)
    # Squares must stay finite too: heads are ranked by norms.
    if not all(vector.square().sum().isfinite() for vector in vectors):
        raise LofitError(f"{description}: vectors have grown beyond all bounds; lower lr, {settings.lr}")
    return history


def gradients(
    model: PreTrainedModel,
    adapter: HeadAdapter,
    batch: Sequence[Example],
    settings: Settings,
    *,
    pad_id: int,
    beta: float,
    accelerator: Accelerator,
    kept: KeptPrefix | None = None,
) -> tuple[float, float]:
    """Give the vectors of `adapter` their gradients on a batch, over all processes; returns loss and penalty."""
    whole = mean_over(batch)
    penalty = l1_penalty(adapter.scales, weight=settings.l1)
    if accelerator.is_main_process and penalty.requires_grad:
        accelerator.backward(penalty)
    total = 0.0
    for part in parts(batch, settings.micro_batch_size, accelerator):
        loss = task_loss(model, part, pad_id=pad_id, beta=beta, kept=kept) * (mean_over(part) / whole)
        accelerator.backward(loss)
        total += loss.item()
    for vector in adapter.parameters():
        vector.grad = accelerator.reduce(torch.zeros_like(vector) if vector.grad is None else vector.grad, "sum")
    return accelerator.reduce(torch.tensor(total, device=accelerator.device), "sum").item(), penalty.item()


@torch.no_grad()
def mean_loss(
    model: PreTrainedModel,
    adapter: HeadAdapter,
    examples: Sequence[Example],
    *,
    layout: HeadLayout | None = None,
    pad_id: int,
    beta: float,
    batch_size: int,
) -> float:
    """The task's loss over held-out examples, without penalty: one mean over all of them, whatever the batches."""
    total = 0.0
    with adapter.attach(model, layout):
        for first in range(0, len(examples), batch_size):
            batch = examples[first : first + batch_size]
            total += task_loss(model, batch, pad_id=pad_id, beta=beta).item() * mean_over(batch)
    return total / mean_over(examples)
