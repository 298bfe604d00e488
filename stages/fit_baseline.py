"""Stage fit_baseline: fit a row that is no LoFiT, from its data and the model alone."""

from lofit.adapters.folder import WEIGHTS_FILE
from lofit.fitting.fit import fit
from lofit.storage.tables import write_heads
from stages import paths
from stages.command import Method, Run, Seed, Task, is_first_process, main
from stages.parts import Parts, trained_parameters, write_adapters
from stages.plan import read_plan
from stages.processes import share_work
from stages.tracking import TRAINING, md5_of, track


def fit_baseline(task: Task, seed: Seed, method: Method, run: Run) -> None:
    plan = read_plan("fit_baseline", task, method)
    share_work("fit_baseline")
    options = {"method": plan["method"], **plan["arguments"], **plan["settings"]}
    tags = {"stage": "fit_baseline", "task": task, "seed": seed}
    with track(TRAINING, f"fit_baseline/{task}/{method}/{seed}", tags) as tracker:
        inputs = {(1, fold): None for fold in plan["folds"]}
        parts = Parts("fit_baseline", (task, seed, method), plan, inputs, tracker)
        adapters = {part: fit(**given, **options) for part, given in parts}
        if not is_first_process():
            return
        write_adapters(adapters, task, seed, method, plan["settings"])
        write_heads(
            paths.heads_file(task, seed, method), {part: getattr(a, "heads", []) for part, a in adapters.items()}
        )
        metrics = paths.metrics_folder(run, task, seed, method) / "fit_baseline.json"
        parts.write(trained_parameters(adapters), metrics, paths.curve_file(task, seed, method))
        tracker.tags({"md5": md5_of(sorted(paths.adapter_folder(task, seed, method).rglob(WEIGHTS_FILE)))})


if __name__ == "__main__":
    main(fit_baseline)
