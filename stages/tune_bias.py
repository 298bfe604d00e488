"""Stage tune_bias: LoFiT's step 2, an offset vector for each selected head."""

from lofit.fitting.fit import fit
from lofit.storage.tables import read_ranking
from stages import paths
from stages.command import Method, Run, Seed, Task, is_first_process, main
from stages.parts import Parts, write_cell
from stages.plan import read_plan
from stages.processes import share_work
from stages.tracking import TRAINING, track


def tune_bias(task: Task, seed: Seed, method: Method, run: Run) -> None:
    plan = read_plan("tune_bias", task, method)
    share_work("tune_bias")
    heads = read_ranking(paths.heads_file(task, seed, method))
    options = {"method": "lofit", "tune": plan.get("tune"), **plan["settings"]}
    tags = {"stage": "tune_bias", "task": task, "seed": seed}
    with track(TRAINING, f"tune_bias/{task}/{method}/{seed}", tags) as tracker:
        parts = Parts("tune_bias", (task, seed, method), plan, heads, tracker)
        adapters = {part: fit(heads=heads[part], **given, **options) for part, given in parts}
        if not is_first_process():
            return
        # Where heads are drawn, one more draw finds the others finished and trains itself alone.
        drawn = "draws" in read_plan("select_heads", task, method)["settings"]
        write_cell(parts, adapters, run, keep_checkpoints=drawn)


if __name__ == "__main__":
    main(tune_bias)
