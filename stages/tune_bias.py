"""Stage tune_bias: LoFiT's step 2, an offset vector for each selected head."""

from lofit.adapters.folder import WEIGHTS_FILE
from lofit.fitting.tune_bias import tune_bias as fit_offsets
from lofit.storage.tables import read_ranking
from stages import paths
from stages.command import Method, Run, Seed, Task, is_first_process, main
from stages.parts import Parts, trained_parameters, write_adapters
from stages.plan import read_plan
from stages.processes import share_work
from stages.tracking import TRAINING, md5_of, track


def tune_bias(task: Task, seed: Seed, method: Method, run: Run) -> None:
    plan = read_plan("tune_bias", task, method)
    share_work("tune_bias")
    heads = read_ranking(paths.heads_file(task, seed, method))
    tags = {"stage": "tune_bias", "task": task, "seed": seed}
    with track(TRAINING, f"tune_bias/{task}/{method}/{seed}", tags) as tracker:
        parts = Parts("tune_bias", (task, seed, method), plan, heads, tracker)
        adapters = {part: fit_offsets(heads=heads[part], **given, **plan["settings"]) for part, given in parts}
        if not is_first_process():
            return
        write_adapters(adapters, task, seed, method, plan["settings"])
        metrics = paths.metrics_folder(run, task, seed, method) / "tune_bias.json"
        curve = paths.curve_file(task, seed, method)
        # Where heads are drawn, one more draw finds the others finished and trains itself alone.
        drawn = "draws" in read_plan("select_heads", task, method)["settings"]
        parts.write(trained_parameters(adapters), metrics, curve, keep_checkpoints=drawn)
        tracker.tags({"md5": md5_of(sorted(paths.adapter_folder(task, seed, method).rglob(WEIGHTS_FILE)))})


if __name__ == "__main__":
    main(tune_bias)
