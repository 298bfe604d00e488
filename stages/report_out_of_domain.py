"""The report's section on other tasks, from the files that the stage out_of_domain has written."""

from collections.abc import Sequence
from typing import Any

from lofit.report.out_of_domain import out_of_domain_tables
from lofit.report.rows import Row
from lofit.storage.files import read_json
from lofit.storage.question_scores import read_question_scores
from stages import paths

SECTION = """Scores on tasks that the rows were not tuned on, by lm-evaluation-harness (`out_of_domain` in params.yaml),
each with a 95 % bootstrap interval. exact_match favours a model that is tuned to answer briefly; acc compares the
likelihoods of given answers and does not.

{tables}
"""


def out_of_domain_section(run: str, settings: dict[str, Any], rows: Sequence[Row], baseline: str | None) -> str:
    """The scores on other tasks; nothing where no row was asked."""
    asked = settings["out_of_domain"]
    if not asked:
        return ""
    tasks = {
        task: {
            row: [read_question_scores(paths.out_of_domain_file(task, seed, row)) for seed in settings["seeds"]]
            for row in asked
            if row in settings["rows_of"][task]
        }
        for task in settings["tasks"]
    }
    cell = (next(iter(tasks)), settings["seeds"][0], asked[0])
    figures = read_json(paths.metrics_folder(run, *cell) / "out_of_domain.json")
    totals = {name: figure["of"] for name, figure in figures.items()}
    return SECTION.format(tables=out_of_domain_tables(tasks, rows, totals, baseline=baseline))
