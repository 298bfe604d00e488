"""Stage measure_heads: score all heads by gradients or by a training of all of them; as probe_heads, by activations."""

import time

from lofit import rankings
from lofit.fitting.rank_heads import rank_heads
from lofit.models.layout import HeadLayout
from lofit.pages import find_page
from lofit.storage.files import read_json
from lofit.storage.tables import write_norms
from lofit.training.case import Case
from lofit.training.loop import Progress
from stages import paths
from stages.command import Method, Seed, Task, is_first_process, main
from stages.costs import write_costs
from stages.parts import Parts
from stages.plan import read_plan
from stages.processes import share_work
from stages.tracking import TRAINING, track


def measure_heads(task: Task, seed: Seed, method: Method) -> None:
    plan = read_plan("measure_heads", task, method)
    page = rankings.find(plan["ranking"])
    file = paths.ranking_file(task, seed, method)
    if page.NEEDS == "activations":
        case = Case(HeadLayout.from_json(read_json(paths.BASE_MODEL)["layout"]), task=task, seed=seed)
        settings = page.Settings.of(plan["settings"])
        # Found by name: a ranking by gradients does not depend on how activations are collected.
        load = find_page("lofit.training", "activations", what="page").Activations.load
        folders = {fold: paths.activations_folder(task) / paths.scales_name(fold) for fold in plan["folds"]}
        began = time.monotonic()
        write_norms(file, {fold: page.rank(case, settings, load(folder)) for fold, folder in folders.items()})
        write_costs("measure_heads", task, seed, method, [Progress(seconds=time.monotonic() - began)])
        return
    share_work("measure_heads")
    tags = {"stage": "measure_heads", "task": task, "seed": seed}
    with track(TRAINING, f"measure_heads/{task}/{method}/{seed}", tags) as tracker:
        parts = Parts("measure_heads", (task, seed, method), plan, {(1, fold): None for fold in plan["folds"]}, tracker)
        scores = {fold: rank_heads(**given, ranking=plan["ranking"], **plan["settings"]) for (_, fold), given in parts}
        if not is_first_process():
            return
        write_norms(file, scores)
        parts.drop_checkpoints()
        write_costs("measure_heads", task, seed, method, parts.progress.values())


if __name__ == "__main__":
    main(measure_heads)
