"""Whether heads belong to a task (LoFiT, Figure 2): offsets tuned on one task at heads that another has chosen.

Relative accuracy is the score with the other task's heads over the score with the task's own. Whether the two differ is
asked of the same questions, by a paired bootstrap; the paper marks p < .05 and p < .1.
"""

import numpy as np

from lofit.errors import LofitError
from lofit.report.comparison import compare
from lofit.report.evidence import Evidence, Study, StudySettings
from lofit.report.study_plots import matrix
from lofit.settings import Name

TITLE = "Heads of another task"

WORDS = """Each field is the score of offsets tuned on the column's task at the heads of the line's task, over the score
at the column's own heads. ** marks p < .05 and * p < .1, two-sided, by a paired bootstrap over the questions and Holm's
correction over the {count} fields off the diagonal."""


class Settings(StudySettings):
    own: Name | None = None
    """The row with each task's own heads; by default the first one whose heads step 1 has chosen."""

    rows: list[Name] = []  # noqa: RUF012
    """Rows with the heads of another task; by default all whose ranking is `from_task`."""


def study(evidence: Evidence, settings: Settings) -> Study:
    own = evidence.main_row(settings.own)
    first = evidence.choices[evidence.tasks[0]]
    rows = settings.rows or [row for row, choice in first.items() if choice.ranking == "from_task"]
    # A task's own heads, borrowed, are the row `own` once more.
    borrowed = {
        task: {
            row: source
            for row in rows
            if row in evidence.cells[task] and (source := evidence.choices[task][row].settings["task"]) != task
        }
        for task in evidence.tasks
    }
    if not any(borrowed.values()):
        raise LofitError("rows: got none with the heads of another task; expected one in run.transfers")
    cells = {
        task: {name: cells for name, cells in evidence.cells[task].items() if name == own or name in borrowed[task]}
        for task in evidence.tasks
    }
    found = {(one.task, one.method): one for one in compare(cells, reference=own)}
    values = np.full((len(evidence.tasks), len(evidence.tasks)), np.nan)
    texts = [["" for _ in evidence.tasks] for _ in evidence.tasks]
    table = []
    for column, task in enumerate(evidence.tasks):
        (own_row,) = evidence.rows(task, [own])
        values[column, column] = 1
        texts[column][column] = f"1\n({own_row.score:.3f})"
        for name, source in borrowed[task].items():
            (row,) = evidence.rows(task, [name])
            comparison = found[task, name]
            line = evidence.tasks.index(source)
            relative = row.score / own_row.score if own_row.score else float("nan")
            values[line, column] = relative
            texts[line][column] = f"{relative:.3f}{stars(comparison.corrected_p)}"
            table.append(
                {
                    "heads of": source,
                    "tuned on": task,
                    "score": row.score,
                    "own heads": own_row.score,
                    "relative": relative,
                    "difference": comparison.difference,
                    "low": comparison.low,
                    "high": comparison.high,
                    "p": comparison.p,
                    "corrected p": comparison.corrected_p,
                }
            )
    figure = matrix(
        values,
        texts,
        down=evidence.tasks,
        across=evidence.tasks,
        labels=("heads chosen on", "offsets tuned and scored on"),
        caption=evidence.caption(evidence.tasks, shown="** p < .05, * p < .1 (paired bootstrap, Holm)"),
    )
    return Study(table, figure, WORDS.format(count=len(table)))


def stars(p: float) -> str:
    return " **" if p < 0.05 else " *" if p < 0.1 else ""
