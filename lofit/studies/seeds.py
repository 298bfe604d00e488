"""How much the seed matters: scores of each seed, and whether seeds choose the same heads."""

import numpy as np

from lofit.report.evidence import Evidence, Study, StudySettings, expected_jaccard, mean_jaccard
from lofit.report.rows import primary_rows, rows_of_task
from lofit.report.study_plots import dots
from lofit.settings import Name

TITLE = "How much the seed matters"

WORDS = """`spread` is the standard deviation over the {count} seeds (n - 1 in the denominator), `alike` the mean
Jaccard index of the heads of two seeds, and `by chance` what random sets reach. In the figure each dot is one
seed; its bar is the 95 % bootstrap interval over questions, which does not hold the chance of the seed."""


class Settings(StudySettings):
    rows: list[Name] = []  # noqa: RUF012
    """The rows to show; by default all."""


def study(evidence: Evidence, settings: Settings) -> Study:
    panels, table = {}, []
    for task in evidence.tasks:
        names = [name for name in settings.rows or evidence.cells[task] if name in evidence.cells[task]]
        dotted = {
            f"{name}, seed {seed}": [cell]
            for name in names
            for seed, cell in zip(evidence.seeds, evidence.cells[task][name], strict=True)
        }
        rows = primary_rows(rows_of_task(task, dotted, baseline=None))
        panels[f"{task}\n{rows[0].metric}"] = rows
        for at, name in enumerate(names):
            scores = [row.score for row in rows[at * len(evidence.seeds) : (at + 1) * len(evidence.seeds)]]
            sets = list(evidence.heads(task, name).values())
            k = len(sets[0]) if sets and sets[0] else None
            table.append(
                {
                    "task": task,
                    "row": name,
                    "mean": float(np.mean(scores)),
                    "spread": float(np.std(scores, ddof=1)) if len(scores) > 1 else None,
                    "lowest": min(scores),
                    "highest": max(scores),
                    "k": k,
                    "alike": mean_jaccard(sets) if k else None,
                    "by chance": expected_jaccard(k, k, evidence.number_of_heads) if k else None,
                }
            )
    figure = dots(panels, caption=evidence.caption(evidence.tasks))
    return Study(table, figure, WORDS.format(count=len(evidence.seeds)))
