"""What the stages that fit share: each part of a cell, a draw of heads and a fold of data, is fitted by itself."""

import shutil
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from lofit.adapters.base import Adapter
from lofit.adapters.provenance import Provenance
from lofit.errors import LofitError
from lofit.fitting.context import Context, Scoring
from lofit.models.layout import HeadLayout
from lofit.models.runtime import be_deterministic, pick_device
from lofit.pages import find_page
from lofit.storage.files import read_json, write_json
from lofit.storage.history import write_history
from lofit.storage.tables import Part
from lofit.storage.trials import write_trials
from lofit.tasks.record import TUNING_SPLITS, by_fold, read_metric, read_objective, read_records
from lofit.training.loop import Progress
from lofit.training.reference import read_references
from stages import paths
from stages.checkpoints import checkpoint_folder, drop_stale
from stages.costs import write_costs
from stages.model import load_base, read_base
from stages.plan import Plan
from stages.runtime import read_runtime
from stages.tracking import Tracker, flatten, md5_of


class Parts:
    """The parts of one cell: their data, the model, and what their training tells.

    Iterate over it for the arguments of each part's fit, then `write`.

    Args:
        stage: the stage's name.
        cell: task and seed, and the row where there is one.
        inputs: what decides the result of a part besides data, model and plan, such as its heads.
    """

    def __init__(
        self, stage: str, cell: tuple[str, int, *tuple[str, ...]], plan: Plan, inputs: dict[Part, Any], run: Tracker
    ) -> None:
        self.stage, self.cell, self.plan, self.inputs, self.run = stage, cell, plan, inputs, run
        task, self.seed, *row = cell
        self.name = "/".join(map(str, (stage, task, *row, self.seed)))
        self.base = read_base()
        data, file = paths.data_folder(task), paths.reference_file(task)
        self.objective = read_objective(data)
        splits = {split: read_records(data, split) for split in TUNING_SPLITS}
        self.records = {split: by_fold(rows) for split, rows in splits.items()}
        self.references = read_references(file, splits) if self.objective.shares_reference else None
        self.tune = plan.get("tune", {})
        given = (self.base.to_json(), *(data / f"{split}.jsonl" for split in TUNING_SPLITS), file)
        if self.tune:
            # Every run of a search stays, by what decides it, for a larger grid and for other rows.
            folder = checkpoint_folder(SEARCHES, plan["code"], *given)
            self.checkpoints = dict.fromkeys(inputs, folder)
        else:
            key = "-".join(map(str, (stage, *cell)))
            shared = (plan, *given, self.seed)
            self.checkpoints = {part: checkpoint_folder(key, *shared, part, wanted) for part, wanted in inputs.items()}
            drop_stale(key, list(self.checkpoints.values()))
        self.progress = {part: Progress(on_step=self._log_step) for part in inputs}
        self._steps = 0

    def __iter__(self) -> Iterator[tuple[Part, dict[str, Any]]]:
        """Each part with the arguments of its fit."""
        runtime = read_runtime()
        be_deterministic()
        if runtime.device_map and runtime.processes > 1:
            raise LofitError(f"device_map: got {runtime.device_map!r}; expected null with several processes")
        device = process_device(runtime.processes, runtime.device)
        self.run.params(
            {
                "base_model": self.base.name,
                "revision": self.base.revision,
                **flatten({self.stage: self.plan["settings"]}),
            }
        )
        model, tokenizer = load_base(self.base, device)
        names = paths.part_names(list(self.inputs))
        for part in self.inputs:
            draw, fold = part
            self.progress[part].name = self.name if len(names) == 1 else f"{self.name}, {names[part]}"
            references = self.references
            context = Context(
                layout=self.base.layout,
                objective=self.objective,
                references=(references["train"][fold], references["val"][fold]) if references else None,
                task=self.cell[0],
                draw=draw,
                runtime=runtime.for_training(),
                progress=self.progress[part],
                activations=self.activations(fold),
                scoring=self.scoring(),
            )
            yield (
                part,
                {
                    "model": model,
                    "tokenizer": tokenizer,
                    "records": self.records["train"][fold],
                    "seed": self.seed,
                    "val": self.records["val"][fold],
                    "checkpoint": self.checkpoints[part],
                    "context": context,
                },
            )
            self._steps += len(self.progress[part].history)

    def activations(self, fold: int) -> Any:
        """What the stage collect_activations has collected; None where the cell's plan does not ask for it."""
        if not self.plan.get("reads_activations"):
            return None
        # Found by name: only a row that looks at activations depends on how they are collected.
        page = find_page("lofit.training", "activations", what="page")
        return page.Activations.load(paths.activations_folder(self.cell[0]) / paths.scales_name(fold))

    def scoring(self) -> Scoring | None:
        """How the trials of a search are scored: as the row itself."""
        return Scoring(read_metric(paths.data_folder(self.cell[0])), **self.plan["scoring"]) if self.tune else None

    def write(self, parameters: dict[Part, int], metrics: Path, curve: Path, *, keep_checkpoints: bool = False) -> None:
        """Write metrics and curve of the whole cell, and drop its checkpoints.

        Args:
            parameters: how many numbers each part has trained.
            keep_checkpoints: leave the finished parts where a cell with one more part finds them.
        """
        figures = [summarise(progress, parameters[part]) for part, progress in self.progress.items()]
        rows, done = [], 0
        for (draw, fold), progress in self.progress.items():
            rows += [{**row, "draw": draw, "fold": fold, "step": done + row["step"]} for row in progress.history]
            done += len(progress.history)
        total = over_parts(figures)
        if total["steps"]:
            self.run.metrics({"val_loss": total["val_loss"]}, step=done)
        write_history(curve, rows)
        write_json(metrics, total)
        if not keep_checkpoints:
            self.drop_checkpoints()

    def drop_checkpoints(self) -> None:
        """Drop what was kept of unfinished work; what a search has found stays."""
        for folder in set(self.checkpoints.values()) if not self.tune else ():
            shutil.rmtree(folder, ignore_errors=True)

    def _log_step(self, row: dict) -> None:
        shown = {key: row[key] for key in ("loss", "penalty", "lr", "val_loss") if key in row}
        self.run.metrics(shown, step=self._steps + row["step"])


SEARCHES = "searches"
"""Where the checkpoints of all searches are."""


def process_device(processes: int, device: str) -> Any:
    """Where this process's model goes: each of several processes has an accelerator of its own."""
    found = pick_device(device)
    if processes == 1 or found.type == "cpu":
        return found
    from accelerate import Accelerator

    return Accelerator().device


def summarise(progress: Progress, parameters: int) -> dict[str, float]:
    """The figures of a finished part: losses are means over the last epoch, or the one that was kept, and over the
    validation split."""
    history = progress.history
    if not history:
        return {"steps": 0, "trained_parameters": parameters}
    kept = progress.kept_epoch
    last = [row["loss"] for row in history if row["epoch"] == (kept or history[-1]["epoch"])]
    return {
        "steps": len(history),
        "trained_parameters": parameters,
        "train_loss": sum(last) / len(last),
        "val_loss": progress.val_loss if progress.val_loss is not None else float("nan"),
        **({} if kept is None else {"kept_epoch": kept}),
    }


def over_parts(figures: list[dict[str, float]]) -> dict[str, float]:
    """Steps of all parts together; losses, parameters and the epochs that were kept as means over parts."""
    means = {name: sum(part[name] for part in figures) / len(figures) for name in figures[0]}
    losses: dict[str, float] = {
        name: round(mean, 6) for name, mean in means.items() if name in ("train_loss", "val_loss", "kept_epoch")
    }
    steps = sum(part["steps"] for part in figures)
    return {"steps": steps, "trained_parameters": round(means["trained_parameters"]), **losses}


def write_cell(parts: Parts, adapters: Mapping[Part, Adapter], run: str, *, keep_checkpoints: bool = False) -> None:
    """Write all that a fitted cell leaves: adapters, trials, metrics, curve, and what it has cost."""
    task, seed, row = parts.cell[0], parts.seed, str(parts.cell[-1])
    write_adapters(adapters, task, seed, row)
    trials = {part: progress.trials for part, progress in parts.progress.items()}
    write_trials(paths.trials_file(task, seed, row), trials)
    draws = len({draw for draw, _ in adapters})
    costs = write_costs(parts.stage, task, seed, row, parts.progress.values(), draws)
    metrics = paths.metrics_folder(run, task, seed, row) / f"{parts.stage}.json"
    parameters = trained_parameters(adapters)
    parts.write(parameters, metrics, paths.curve_file(task, seed, row), keep_checkpoints=keep_checkpoints)
    parts.run.metrics({f"costs/{name}": value for name, value in costs.items() if value is not None})
    parts.run.tags({"md5": md5_of(adapter_weights(task, seed, row))})


def adapter_weights(task: str, seed: int, row: str) -> list[Path]:
    """The files of tensors in a row's adapters, of whatever kind."""
    return sorted(paths.adapter_folder(task, seed, row).rglob("*.safetensors"))


def write_adapters(adapters: Mapping[Part, Adapter], task: str, seed: int, row: str) -> None:
    """Write each part's adapter into a folder of its own, and where it comes from."""
    base = read_json(paths.BASE_MODEL)
    layout = HeadLayout.from_json(base["layout"])
    # A converted folder is this project's own; by its name the model is found anywhere.
    known_as = base["name"] if base["conversion"] else base["source"]
    data = (paths.data_folder(task) / "train.jsonl").read_bytes()
    for part, name in paths.part_names(list(adapters)).items():
        draw, fold = part
        adapter = adapters[part]
        training = {
            **{"task": task, "method": row, "seed": seed, "fold": fold, "draw": draw},
            "data_sha256": sha256(data).hexdigest(),
            "parameters": adapter.provenance.training["parameters"],
        }
        adapter.provenance = Provenance.made_now(known_as, base["revision"], layout, training=training)
        adapter.save_pretrained(paths.adapter_folder(task, seed, row) / name, card=False)


def trained_parameters(adapters: Mapping[Part, Adapter]) -> dict[Part, int]:
    """How many numbers each adapter holds."""
    return {part: count(adapter.parameters()) for part, adapter in adapters.items()}


def count(parameters: Iterable[Any]) -> int:
    return sum(parameter.numel() for parameter in parameters)
