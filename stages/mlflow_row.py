"""The MLflow row of an evaluated cell: all that earlier stages made, read from their files.

They may have run long ago, or elsewhere.
"""

from collections.abc import Mapping
from pathlib import Path

from lofit import rankings
from lofit.scoring.metrics import means
from lofit.storage.files import read_json
from lofit.storage.history import read_history
from lofit.storage.tables import Part, read_norms, read_ranking
from lofit.storage.trials import best_trial, read_trials
from lofit.tasks.record import SPLITS
from stages import paths
from stages.costs import read_costs
from stages.parts import adapter_weights
from stages.plan import plan_file, read_plan
from stages.release import named, write_release
from stages.tracking import Tracker, flatten, md5_of

Table = Mapping[str, list[float]]


def log_cell(tracker: Tracker, run: str, task: str, seed: int, row: str) -> None:
    """Parameters, figures and curves of every stage that made the cell, and tags that join it to code and data."""
    if not tracker.active:
        return
    log_parameters(tracker, task, seed, row)
    data = paths.data_folder(task)
    files = {
        "md5.adapter": adapter_weights(task, seed, row),
        **{f"md5.{split}": [data / f"{split}.jsonl"] for split in SPLITS},
    }
    shared = paths.scales_folder(task, seed)
    curve, cell = paths.curve_file(task, seed, row), (task, seed, row)
    stages: dict[str, tuple[Path, tuple]] = {fitting_stage(task, row): (curve, cell)}
    if uses_scales(task, row):
        files["md5.scales"] = [shared / "scales.safetensors"]
        stages["train_scales"] = (shared / "curve.csv", (task, seed))
    tracker.tags({name: md5_of(found) for name, found in files.items()})
    for stage, (curve, cell) in stages.items():
        figures = read_json(paths.metrics_folder(run, *cell) / f"{stage}.json")
        tracker.metrics({f"{stage}/{name}": value for name, value in figures.items()})
        for step in read_history(curve):
            losses = {f"{stage}/{name}": step[name] for name in ("loss", "val_loss") if name in step}
            tracker.metrics(losses, step=int(step["step"]))
        if stage != "train_scales":
            tracker.metrics({"trained_parameters": figures["trained_parameters"]})
    for stage in (fitting_stage(task, row), "measure_heads"):
        costs = read_costs(stage, task, seed, row)
        tracker.metrics({f"costs/{stage}/{name}": value for name, value in costs.items() if value is not None})
    tried = paths.trials_file(task, seed, row)
    if trials := read_trials(tried):
        best = [best_trial(some)["settings"] for some in trials.values()]
        tracker.params({f"chosen.{key}": " / ".join(str(one[key]) for one in best) for key in best[0]})
        tracker.artifact(tried, "trials")
    file = paths.heads_file(task, seed, row)
    tracker.artifact(file, "heads")
    heads = read_ranking(file)
    if heads and uses_scales(task, row):
        norms = read_norms(shared / "norms.csv")
        tracker.heat_maps(
            [(f"{task}, {row}, seed {seed}, fold {fold}", norms[fold], chosen) for (_, fold), chosen in heads.items()]
        )


def log_scores(tracker: Tracker, scores: Mapping[Part, Table], split: str, task: str, seed: int, row: str) -> None:
    """Scores, predictions, and the adapters with their scores in the cards."""
    if not tracker.active:
        return
    tracker.metrics(named(means(scores), split))
    tracker.show_columns(f"{split}/{name}" for name in next(iter(scores.values())) if not name.startswith("mc3"))
    tracker.artifact(paths.predictions_file(task, seed, row), "predictions")
    # The files must stay until the run has ended.
    folder = paths.cache_folder() / "releases" / f"{task}-{seed}-{row}"
    write_release(folder, scores, split, task, seed, row)
    tracker.artifact(folder, "adapter")


def log_parameters(tracker: Tracker, task: str, seed: int, row: str) -> None:
    """The effective settings of every stage that made the cell."""
    stages = ["fetch_data", "preprocess", *(["train_scales"] if uses_scales(task, row) else [])]
    blocks = {stage: read_plan(stage, task)["settings"] for stage in stages}
    for stage in ("measure_heads", "select_heads", "tune_bias", "fit_baseline", "evaluate"):
        if plan_file(stage, task, row).exists():
            plan = read_plan(stage, task, row)
            named_keys = {key: plan[key] for key in ("k", "ranking", "method") if key in plan}
            searched = {"tune": plan["tune"]} if "tune" in plan else {}
            blocks[stage] = {**named_keys, **plan.get("arguments", {}), **plan["settings"], **searched}
    base = read_json(paths.BASE_MODEL)
    model = {key: base[key] for key in ("name", "revision", "dtype", "quantization")}
    tracker.params({"task": task, "seed": seed, "method": row, **flatten({"model": model, **blocks})})


def fitting_stage(task: str, row: str) -> str:
    """The stage that fits a row."""
    return "tune_bias" if plan_file("tune_bias", task, row).exists() else "fit_baseline"


def uses_scales(task: str, row: str) -> bool:
    """Whether step 1 of the task itself has a part in the row."""
    return selecting_stage(task, row) == "train_scales"


def selecting_stage(task: str, row: str) -> str | None:
    """The stage that scores the heads of a row, where that takes one."""
    file = plan_file("select_heads", task, row)
    if not file.exists():
        return None
    stages = {"scales": "train_scales", "subject": "measure_heads", "activations": "measure_heads"}
    return stages.get(rankings.find(read_plan("select_heads", task, row)["ranking"]).NEEDS or "")
