"""Stage select_heads: rank the heads of the model and keep the first K.

Other stages of dvc.yaml run it too, for rows whose rankings wait for less (rank_heads), for other tasks (borrow_heads),
or have been made by a stage of their own (select_measured, select_probed).
"""

from safetensors.numpy import load_file

from lofit import rankings
from lofit.fitting.select_heads import select_heads as best
from lofit.fitting.share import number_of_heads
from lofit.models.layout import HeadLayout
from lofit.storage.files import read_json
from lofit.storage.tables import read_norms, write_heads
from lofit.training.case import Case
from stages import paths
from stages.command import Method, Seed, Task, main
from stages.plan import read_plan


def select_heads(task: Task, seed: Seed, method: Method) -> None:
    plan = read_plan("select_heads", task, method)
    heads = paths.heads_file(task, seed, method)
    layout = HeadLayout.from_json(read_json(paths.BASE_MODEL)["layout"])
    k = number_of_heads(plan["k"], layout.size)
    if plan["measured"]:
        scores = read_norms(paths.ranking_file(task, seed, method))
        write_heads(heads, {(1, fold): best(scores[fold], k) for fold in plan["folds"]})
        return
    page = rankings.find(plan["ranking"])
    settings = page.Settings.of(plan["settings"])
    source = getattr(settings, "task", task)
    scales = load_file(paths.scales_folder(source, seed) / "scales.safetensors") if page.NEEDS else {}
    chosen = {}
    for draw in range(1, getattr(settings, "draws", 1) + 1):
        for fold in plan["folds"]:
            case = Case(layout, task=task, seed=seed, draw=draw)
            ranked = page.rank(case, settings, scales.get(paths.scales_name(fold)))
            chosen[draw, fold] = best(ranked, k)
            if plan["ranking"] == "scale_norm":
                page.warn_of_noise(ranked, k)
    write_heads(heads, chosen)


if __name__ == "__main__":
    main(select_heads)
