"""Not a stage: how long `dvc repro` will take here, from a step of training and a few answers that are measured now."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lofit.cli.terminal import columns, terminal
from lofit.errors import LofitError
from lofit.storage.files import read_json
from stages import paths
from stages.command import main
from stages.params import effective
from stages.params.load import load
from stages.params.schema import Params

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lofit.models.base import BaseModel

STEPS = 3
"""How many steps are measured; the first one, which is slower, counts as well."""

ANSWERS = 16
"""How many validation records are scored."""


@dataclass(frozen=True)
class Work:
    """What a row is to do on a task, all folds and draws of a seed together."""

    steps: int = 0
    """Training steps."""

    scored: int = 0
    """Records that are scored, those of validation by which a search chooses included."""


def estimate() -> None:
    """Print how long the rows of params.yaml will take, by task; after `dvc repro base_model preprocess`."""
    params = load(paths.PARAMS)
    needed = [paths.BASE_MODEL, *(counts_file(params, task) for task in params.run.tasks)]
    if missing := [file for file in needed if not file.exists()]:
        raise LofitError(f"{missing[0]}: no such file; run `dvc repro base_model preprocess` first")
    # Only now: a fault above should not wait for torch.
    from stages.model import load_base, read_base

    base = read_base()
    loaded = load_base(base)
    table = columns("task", "rows", "steps", "s a step", "scored", "s a record", "hours", right=(1, 2, 3, 4, 5, 6))
    total = 0.0
    for task in params.run.tasks:
        work = list(work_of_task(params, task))
        steps, scored = sum(part.steps for part in work), sum(part.scored for part in work)
        per_step, per_record = measure(params, task, base, *loaded)
        hours = len(params.run.seeds) * (steps * per_step + scored * per_record) / 3600
        total += hours
        figures = (f"{steps:,}", f"{per_step:.2f}", f"{scored:,}", f"{per_record:.3f}", f"{hours:.1f}")
        table.add_row(task, str(len(params.run.rows)), *figures)
    terminal().print(table)
    print(
        f"\nAt most {total:.1f} hours on this machine, as busy as it is now: rows that tune upper layers run the lower "
        "ones only once.\nWhat is done stays done: it can be interrupted and taken up again."
    )


def work_of_task(params: Params, task: str) -> Iterator[Work]:
    """What step 1 and each row do on a task with one seed."""
    counts, folds = records_of(params, task)
    scales = params.tasks[task].train_scales
    if scales and (params.run.methods or params.run.transfers):
        yield Work(steps=folds * steps_of([scales], counts["train"]))
    for row in params.run.rows:
        if row in params.run.fitted_rows:
            fit, draws = effective.fit(params, task, row)[0], 1
        else:
            fit = effective.tune_bias(params, task, row)
            draws = getattr(effective.selection(params, task, row).settings, "draws", 1)
        tried = len(fit.candidates) if fit.tune else 0
        scored = counts[params.tasks[task].evaluate.split] + tried * counts["val"]
        yield Work(folds * draws * steps_of(fit.candidates, counts["train"]), folds * draws * scored)


def records_of(params: Params, task: str) -> tuple[dict[str, int], int]:
    """How many records each split of a fold has, and how many folds there are."""
    folds = len(params.tasks[task].preprocess.folds)
    return {split: -(-count // folds) for split, count in read_json(counts_file(params, task)).items()}, folds


def counts_file(params: Params, task: str) -> Path:
    """Where the stage preprocess says how many records there are."""
    return paths.metrics_folder(params.run.name, task) / "preprocess.json"


def steps_of(candidates: Any, records: int) -> int:
    """The training steps of all candidates; none of those that are computed rather than trained."""
    trained = [settings for settings in candidates if hasattr(settings, "epochs")]
    return sum(settings.epochs * -(-records // settings.batch_size) for settings in trained)


def measure(
    params: Params, task: str, base: "BaseModel", model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase"
) -> tuple[float, float]:
    """Seconds that a training step of all heads takes, and those of a record that is scored."""
    from lofit.fitting.context import Context
    from lofit.fitting.train_scales import train_scales
    from lofit.rankings.scale_norm import ScaleSettings
    from lofit.scoring.predict import predict
    from lofit.tasks.record import read_metric, read_objective, read_records
    from lofit.training.loop import Progress
    from stages.runtime import read_runtime

    data = paths.data_folder(task)
    block = params.tasks[task]
    settings = (block.train_scales or ScaleSettings()).model_dump()
    progress = Progress(name=task)
    context = Context(
        layout=base.layout,
        objective=read_objective(data),
        runtime=read_runtime().for_training(),
        progress=progress,
    )
    records = read_records(data, "train")[: STEPS * settings["batch_size"]]
    train_scales(model, tokenizer, records, **{**settings, "epochs": 1}, context=context)
    shown = read_records(data, "val")[:ANSWERS]
    options: dict[str, Any] = {"batch_size": block.evaluate.batch_size, "max_new_tokens": block.evaluate.max_new_tokens}
    began = time.monotonic()
    predict(model, tokenizer, shown, read_metric(data), **options)
    return progress.seconds / len(progress.history), (time.monotonic() - began) / len(shown)


if __name__ == "__main__":
    main(estimate)
