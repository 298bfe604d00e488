"""Stage out_of_domain: ask the tuned model the questions of other tasks."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lofit.adapters.kinds import load_adapter
from lofit.errors import LofitError
from lofit.models.runtime import be_deterministic
from lofit.scoring import harness
from lofit.scoring.out_of_domain import ask
from lofit.storage.files import write_json
from lofit.storage.question_scores import QuestionScores, write_question_scores
from lofit.storage.tables import Part
from stages import paths
from stages.command import Method, Run, Seed, Task, main
from stages.evaluate import adapter_folders
from stages.keys import keys_of
from stages.model import load_base, read_base
from stages.params.schema import OutOfDomain
from stages.plan import read_plan


def out_of_domain(task: Task, seed: Seed, method: Method, run: Run) -> None:
    settings = read_plan("out_of_domain", task, method)["settings"]
    names, limit, batch_size = (settings.pop(key) for key in ("tasks", "limit", "batch_size"))
    be_deterministic()
    base = read_base()
    with keys_of("out_of_domain", OutOfDomain):
        loaded = harness.load(names, **settings, cache=paths.cache_folder() / "data")
    model, tokenizer = load_base(base)
    reached: dict[Part, dict[str, QuestionScores]] = {}
    for part, folder in adapter_folders(task, seed, method).items():
        adapter = load_adapter(folder)
        if adapter.provenance.base_revision != base.revision:
            raise LofitError(
                f"{folder}: made for another revision of {base.name}; expected after `dvc repro`: this one"
            )
        reached[part] = ask(
            model, tokenizer, loaded, adapter=adapter, layout=base.layout, limit=limit, batch_size=batch_size
        )
    write_question_scores(paths.out_of_domain_file(task, seed, method), reached)
    totals = {name: loaded.total(name) for name in names}
    write_json(paths.metrics_folder(run, task, seed, method) / "out_of_domain.json", figures(reached, totals))


def figures(reached: Mapping[Part, Mapping[str, QuestionScores]], totals: Mapping[str, int]) -> dict[str, Any]:
    """By task, how many questions were asked and of how many, and each metric's mean with its standard error."""
    found: dict[str, Any] = {}
    parts = list(reached.values())
    for name, first in parts[0].items():
        found[name] = {"questions": len(first.questions), "of": totals[name]}
        for metric in first.scores:
            found[name] |= mean_and_error(metric, [part[name].scores[metric] for part in parts])
    return found


def mean_and_error(metric: str, parts: Sequence[np.ndarray]) -> dict[str, float | None]:
    """A metric's mean over questions and parts, and its standard error over questions."""
    values = np.mean(parts, axis=0)
    error = float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else None
    return {metric: round(float(values.mean()), 6), f"{metric}_stderr": error if error is None else round(error, 6)}


if __name__ == "__main__":
    main(out_of_domain)
