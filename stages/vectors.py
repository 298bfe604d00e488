"""What the two training stages share: the same loop over the same data, for other vectors."""

from collections.abc import Callable
from contextlib import ExitStack
from hashlib import md5
from pathlib import Path

from accelerate import Accelerator

from lofit import config, models, training
from lofit.adapter import HeadAdapter
from lofit.completions import padding_id
from lofit.files import write_json
from lofit.heads import HeadLayout
from lofit.history import write_history
from lofit.tasks.record import read_judgement, read_records
from lofit.tracking import TRAINING, flatten, track
from stages import workspace


def train_vectors(
    stage: str,
    cell: tuple,
    settings: config.TuneBias,
    make: Callable[[HeadLayout], HeadAdapter],
    save: Callable[[HeadAdapter], Path],
    *,
    l1: float = 0.0,
) -> None:
    """Train what `make` makes, have `save` write it (it returns the file), write history and metrics beside it.

    `cell` is (task, seed) or (task, seed, method).
    """
    task, seed = cell[:2]
    base = workspace.read_base_model(workspace.read_params())
    data = workspace.data_folder(task)
    where = workspace.place(*cell)
    judgement = read_judgement(data)
    records = {split: read_records(data, split) for split in ("train", "val")}
    adapter = make(base.layout)
    inputs = (settings.model_dump(), base.to_json(), data, seed, adapter.heads)
    checkpoint = workspace.open_checkpoint("-".join(map(str, (stage, *cell))), *inputs)
    models.be_deterministic()
    accelerator = Accelerator()

    with ExitStack() as stack:
        name = "/".join(map(str, (stage, task, *cell[2:], seed)))
        run = stack.enter_context(track(TRAINING, name, {"stage": stage, "task": task, "seed": seed}))
        run.params({"base_model": base.name, "revision": base.revision, **flatten({stage: settings.model_dump()})})
        model, tokenizer = models.load(base, device=accelerator.device)
        adapter.to(accelerator.device)
        examples = {
            split: training.prepare(
                model,
                tokenizer,
                rows,
                judgement,
                max_length=settings.max_length,
                batch_size=settings.batch_size,
            )
            for split, rows in records.items()
        }
        shared = {"pad_id": padding_id(tokenizer), "beta": settings.beta}
        history = training.train(
            model,
            adapter,
            examples["train"],
            training.Settings(settings.lr, settings.epochs, settings.batch_size, seed, l1),
            **shared,
            accelerator=accelerator,
            checkpoint=checkpoint,
            description=name,
            on_step=lambda row: run.metrics({key: row[key] for key in ("loss", "penalty", "lr")}, step=row["step"]),
        )
        val_loss = training.mean_loss(model, adapter, examples["val"], **shared, batch_size=settings.batch_size)
        metrics = summarise(history, adapter, val_loss)
        run.metrics({"val_loss": val_loss}, step=len(history))
        write_history(where.artifacts / f"{stage}.csv", history)
        write_json(where.metrics / f"{stage}.json", metrics)
        run.tags({"md5": md5(save(adapter).read_bytes()).hexdigest()})
    checkpoint.clear()


def summarise(history: list[dict], adapter: HeadAdapter, val_loss: float) -> dict[str, float]:
    """The figures of a finished run: losses are means over the last epoch, and over the validation split."""
    last = [row["loss"] for row in history if row["epoch"] == history[-1]["epoch"]]
    return {
        "steps": len(history),
        "trained_parameters": sum(vector.numel() for vector in adapter.parameters()),
        "train_loss": round(sum(last) / len(last), 6),
        "val_loss": round(val_loss, 6),
    }
