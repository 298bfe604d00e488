"""Stage collect_activations: read every true and false answer of a task once, for rows that look at activations."""

from lofit.models.runtime import be_deterministic, frozen
from lofit.tasks.record import TUNING_SPLITS, by_fold, read_records
from lofit.training.activations import collect
from stages import paths
from stages.command import Task, main
from stages.model import load_base, read_base
from stages.plan import read_plan


def collect_activations(task: Task) -> None:
    plan = read_plan("collect_activations", task)
    home = paths.activations_folder(task)
    home.mkdir(parents=True, exist_ok=True)
    if not plan["needed"]:
        return
    be_deterministic()
    base = read_base()
    model, tokenizer = load_base(base)
    data = paths.data_folder(task)
    train, val = (by_fold(read_records(data, split)) for split in TUNING_SPLITS)
    with frozen(model):
        for fold in plan["folds"]:
            folder = home / paths.scales_name(fold)
            collect(model, tokenizer, base.layout, train[fold], val[fold], seed=plan["seed"], folder=folder)


if __name__ == "__main__":
    main(collect_activations)
