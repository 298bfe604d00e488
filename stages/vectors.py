"""What the two training stages share: the same loop over the same data, for other vectors."""

from collections.abc import Callable, Mapping
from pathlib import Path

from accelerate import Accelerator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lofit import blocks, models, training
from lofit.adapter import HeadAdapter
from lofit.completions import padding_id
from lofit.errors import LofitError
from lofit.files import write_json
from lofit.heads import HeadLayout
from lofit.history import write_history
from lofit.kept_prefix import Room
from lofit.reference import Pairs, pair_logprobs, read_references
from lofit.tasks.record import TUNING_SPLITS, Judgement, Record, Split, by_fold, read_judgement, read_records
from lofit.tracking import Tracker, flatten
from stages import workspace


def train_vectors(
    stage: str,
    cell: tuple,
    run: Tracker,
    settings: blocks.Training,
    make: Callable[[HeadLayout, int], HeadAdapter],
    save: Callable[[dict[int, HeadAdapter]], list[Path]],
    *,
    l1: float = 0.0,
    room: Room | None = None,
) -> None:
    """Train what `make` makes for each fold, have `save` write it all; write history and metrics beside it.

    `room` is where step 2 may keep what the layers below its heads make of the examples.
    `cell` is (task, seed) or (task, seed, method). `save` returns the files, whose md5 joins the run to its cells.
    """
    task, seed = cell[:2]
    base = workspace.read_base_model(workspace.read_params())
    data = workspace.data_folder(task)
    where = workspace.place(*cell)
    judgement = read_judgement(data)
    splits = {split: read_records(data, split) for split in TUNING_SPLITS}
    records = {split: by_fold(rows) for split, rows in splits.items()}
    file = workspace.reference_file(task)
    references = read_references(file, splits) if judgement.shares_reference else {}
    adapters = {fold: make(base.layout, fold) for fold in records["train"]}
    heads = {fold: adapter.heads for fold, adapter in adapters.items()}
    inputs = (settings.model_dump(), base.to_json(), data, file, seed, heads)
    checkpoint = workspace.open_checkpoint("-".join(map(str, (stage, *cell))), *inputs)
    models.be_deterministic()
    device = models.pick_device(base.device)
    accelerator = Accelerator(cpu=device.type == "cpu")
    if accelerator.num_processes > 1:
        if base.device_map is not None:
            raise LofitError(f"model.device_map: met {base.device_map!r}; allowed with several processes: null")
        device = accelerator.device

    name = workspace.training_name(stage, *cell)
    run.params({"base_model": base.name, "revision": base.revision, **flatten({stage: settings.model_dump()})})
    model, tokenizer = models.load(base, device=device)
    if judgement.reference == "initial":
        references = initial_references(model, tokenizer, records, judgement, adapters, base)
    # Layers that compute their activations anew keep no keys and values, which the reference is computed with.
    if settings.gradient_checkpointing:
        models.save_activation_memory(model)
    shared = {"layout": base.layout, "pad_id": padding_id(tokenizer), "beta": settings.beta}
    history: list[dict] = []
    figures = []
    for fold, adapter in adapters.items():
        adapter.to(device)
        examples = {
            split: training.prepare(
                tokenizer,
                rows[fold],
                judgement,
                max_length=settings.max_length,
                references=references[split][fold] if references else None,
            )
            for split, rows in records.items()
        }
        done = len(history)

        def log(row: dict, done: int = done) -> None:
            run.metrics({key: row[key] for key in ("loss", "penalty", "lr")}, step=done + row["step"])

        rows = training.train(
            model,
            adapter,
            examples["train"],
            training.Settings(settings.lr, settings.epochs, settings.batch_size, seed, l1, settings.micro_batch_size),
            **shared,
            accelerator=accelerator,
            checkpoint=checkpoint.part(f"fold_{fold}"),
            description=name if len(adapters) == 1 else f"{name}, fold {fold}",
            on_step=log,
            room=room,
        )
        batch_size = settings.micro_batch_size or settings.batch_size
        val_loss = training.mean_loss(model, adapter, examples["val"], **shared, batch_size=batch_size)
        figures.append(summarise(rows, adapter, val_loss))
        history += [{**row, "fold": fold, "step": done + row["step"]} for row in rows]
    if accelerator.is_main_process:
        metrics = over_folds(figures)
        run.metrics({"val_loss": metrics["val_loss"]}, step=len(history))
        write_history(where.artifacts / f"{stage}.csv", history)
        write_json(where.metrics / f"{stage}.json", metrics)
        run.tags({"md5": workspace.joined_md5(save(adapters))})
        checkpoint.clear()


def initial_references(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    records: Mapping[Split, Mapping[int, list[Record]]],
    judgement: Judgement,
    adapters: Mapping[int, HeadAdapter],
    base: models.BaseModel,
) -> dict[Split, dict[int, Pairs]]:
    """The reference under the model that carries each fold's fresh vectors, by split and fold."""
    references: dict[Split, dict[int, Pairs]] = {split: {} for split in records}
    for fold, adapter in adapters.items():
        with adapter.to(model.device).attach(model, base.layout):
            for split, rows in records.items():
                references[split][fold] = pair_logprobs(model, tokenizer, rows[fold], judgement)
    return references


def summarise(history: list[dict], adapter: HeadAdapter, val_loss: float) -> dict[str, float]:
    """The figures of a finished fold: losses are means over the last epoch, and over the validation split."""
    last = [row["loss"] for row in history if row["epoch"] == history[-1]["epoch"]]
    return {
        "steps": len(history),
        "trained_parameters": sum(vector.numel() for vector in adapter.parameters()),
        "train_loss": sum(last) / len(last),
        "val_loss": val_loss,
    }


def over_folds(figures: list[dict[str, float]]) -> dict[str, float]:
    """Steps of all folds together; losses and parameters as means over folds."""
    means = {name: sum(fold[name] for fold in figures) / len(figures) for name in figures[0]}
    return {
        "steps": sum(fold["steps"] for fold in figures),
        "trained_parameters": round(means["trained_parameters"]),
        "train_loss": round(means["train_loss"], 6),
        "val_loss": round(means["val_loss"], 6),
    }
