"""Stage fit_baseline: fit a row that is no LoFiT, from data and model alone; as fit_reader, from activations too."""

from lofit.fitting.fit import fit
from lofit.storage.tables import write_heads
from stages import paths
from stages.command import Method, Run, Seed, Task, is_first_process, main
from stages.parts import Parts, write_cell
from stages.plan import read_plan
from stages.processes import share_work
from stages.tracking import TRAINING, track


def fit_baseline(task: Task, seed: Seed, method: Method, run: Run) -> None:
    plan = read_plan("fit_baseline", task, method)
    share_work("fit_baseline")
    options = {"method": plan["method"], "tune": plan.get("tune"), **plan["arguments"], **plan["settings"]}
    tags = {"stage": "fit_baseline", "task": task, "seed": seed}
    with track(TRAINING, f"fit_baseline/{task}/{method}/{seed}", tags) as tracker:
        parts = Parts("fit_baseline", (task, seed, method), plan, {(1, fold): None for fold in plan["folds"]}, tracker)
        adapters = {part: fit(**given, **options) for part, given in parts}
        if not is_first_process():
            return
        heads = {part: getattr(adapter, "heads", []) for part, adapter in adapters.items()}
        write_heads(paths.heads_file(task, seed, method), heads)
        write_cell(parts, adapters, run)


if __name__ == "__main__":
    main(fit_baseline)
