"""The settings that rows were searched over: what each reached on validation records, and which were chosen."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from lofit.report.markdown import from_columns
from lofit.storage.trials import best_trial

Trials = Sequence[Mapping[str, Any]]
"""One search, in its order: `settings`, `score` and `loss` of each configuration. One that failed has no finite score:
None, or minus infinity."""


def trial_tables(tasks: Mapping[str, Mapping[str, Sequence[Trials]]]) -> str:
    """A Markdown table of all configurations for each task, below the header `### task`; empty where none was searched.

    Scores and losses are means over the parts (seeds, draws and folds) in which a configuration did not fail. The last
    column says in how many parts it was chosen.

    Args:
        tasks: by task and method, the search of each part. Rows that searched nothing may be left out or have none.
    """
    sections = []
    for task, methods in tasks.items():
        lines = [line for method, parts in methods.items() for line in lines_of(method, parts)]
        if lines:
            header = ("method", "settings", "val score", "val loss", "chosen")
            columns = dict(zip(header, map(list, zip(*lines, strict=True)), strict=True))
            sections.append(f"### {task}\n\n{from_columns(columns)}")
    return "\n\n".join(sections)


def lines_of(method: str, parts: Sequence[Trials]) -> list[tuple[str, str, str, str, str]]:
    """The lines of one row: a configuration each, in the order of the search."""
    searched = [trials for trials in parts if len(trials) > 1]
    found: dict[str, list[Mapping[str, Any]]] = {}
    for trials in searched:
        for trial in trials:
            found.setdefault(described(trial["settings"]), []).append(trial)
    best = [described(winner["settings"]) for trials in searched if (winner := chosen(trials))]
    lines = []
    for settings, trials in found.items():
        finished = [trial for trial in trials if worked(trial)]
        scores = mean_of(finished, "score")
        if 0 < len(finished) < len(trials):
            scores += f" ({len(trials) - len(finished)} of {len(trials)} failed)"
        times = best.count(settings)
        many = f"{times} of {len(searched)}" if len(searched) > 1 else "yes"
        lines.append((method, settings, scores, mean_of(finished, "loss"), many if times else ""))
    return lines


def chosen(trials: Trials) -> Mapping[str, Any] | None:
    """What the search returned: the best score, ties by the lower loss, then the first; None if all failed."""
    finished = [trial for trial in trials if worked(trial)]
    return best_trial(finished) if finished else None


def worked(trial: Mapping[str, Any]) -> bool:
    return trial["score"] is not None and math.isfinite(trial["score"])


def mean_of(trials: Sequence[Mapping[str, Any]], name: str) -> str:
    return f"{sum(trial[name] for trial in trials) / len(trials):.4f}" if trials else "failed"


def described(settings: Mapping[str, Any]) -> str:
    """Settings as text: `lr 0.01, epochs 5`."""
    return ", ".join(
        f"{key} {value if isinstance(value, str | float | int) else json.dumps(value)}"
        for key, value in settings.items()
    )
