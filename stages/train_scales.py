"""Stage train_scales: LoFiT's step 1, a scaling vector for every head of the model."""

import numpy as np
from safetensors.numpy import save

from lofit.fitting.select_heads import by_head
from lofit.fitting.train_scales import train_scales as fit_scales
from lofit.storage.files import write_json, write_whole
from lofit.storage.history import write_history
from lofit.storage.tables import write_norms
from lofit.tasks.record import by_fold, read_records
from stages import paths
from stages.command import Run, Seed, Task, is_first_process, main
from stages.costs import STEP_1, write_costs
from stages.parts import Parts, trained_parameters
from stages.plan import read_plan
from stages.processes import share_work
from stages.tracking import TRAINING, md5_of, track


def train_scales(task: Task, seed: Seed, run: Run) -> None:
    plan = read_plan("train_scales", task)
    folder, metrics = paths.scales_folder(task, seed), paths.metrics_folder(run, task, seed) / "train_scales.json"
    if not plan["needed"]:
        write_whole(folder / "scales.safetensors", save({}))
        write_norms(folder / "norms.csv", {})
        write_history(folder / "curve.csv", [])
        write_json(metrics, {"steps": 0, "trained_parameters": 0})
        return
    share_work("train_scales")
    folds = by_fold(read_records(paths.data_folder(task), "train"))
    name = f"train_scales/{task}/{seed}"
    with track(TRAINING, name, {"stage": "train_scales", "task": task, "seed": seed}) as tracker:
        parts = Parts("train_scales", (task, seed), plan, {(1, fold): None for fold in folds}, tracker)
        adapters = {part: fit_scales(**given, **plan["settings"]) for part, given in parts}
        if not is_first_process():
            return
        scales = {fold: by_head(adapter) for (_, fold), adapter in adapters.items()}  # layers x heads x head_dim
        write_norms(folder / "norms.csv", {fold: np.linalg.norm(values, axis=-1) for fold, values in scales.items()})
        file = folder / "scales.safetensors"
        write_whole(file, save({paths.scales_name(fold): values for fold, values in scales.items()}))
        write_costs("train_scales", task, seed, STEP_1, parts.progress.values())
        parts.write(trained_parameters(adapters), metrics, folder / "curve.csv")
        tracker.tags({"md5": md5_of([file])})


if __name__ == "__main__":
    main(train_scales)
