"""Rows side by side on every task, each compared with one of them: the form of the paper's tables."""

from collections.abc import Mapping, Sequence

from lofit.report.comparison import compare
from lofit.report.evidence import Evidence, Study
from lofit.report.rows import Row
from lofit.report.study_plots import dots


def study_of_rows(evidence: Evidence, rows: Sequence[str], *, reference: str, words: str) -> Study:
    """A line for each task and row, in the order of `rows`, and a dot for each in the figure."""
    cells = {
        task: {row: found[row] for row in dict.fromkeys([*rows, reference]) if row in found}
        for task, found in evidence.cells.items()
    }
    compared = {(one.task, one.method): one for one in compare(cells, reference=reference)}
    panels, table = {}, []
    for task in evidence.tasks:
        members = evidence.rows(task, rows)
        panels[f"{task}\n{members[0].metric}"] = members
        for row in members:
            choice, found = evidence.choices[task].get(row.method), compared.get((task, row.method))
            table.append(
                {
                    "task": task,
                    "row": row.method,
                    "ranking": choice.ranking if choice else None,
                    "score": row.score,
                    "low": row.low,
                    "high": row.high,
                    "draws": row.draws if row.draws > 1 else None,
                    "lowest draw": row.lowest,
                    "highest draw": row.highest,
                    "difference": found.difference if found else None,
                    "difference low": found.low if found else None,
                    "difference high": found.high if found else None,
                    "corrected p": found.corrected_p if found else None,
                    "trained numbers": row.trained_parameters,
                }
            )
    figure = dots(panels, reference=reference, caption=evidence.caption(evidence.tasks))
    return Study(table, figure, words, short_table(panels, rows))


def short_table(panels: Mapping[str, Sequence[Row]], rows: Sequence[str]) -> dict[str, list[str]]:
    """A line for each row, a column for each task, and the mean over tasks where a row has a score on all of them."""
    found = [{row.method: row for row in members} for members in panels.values()]
    names = [name for name in rows if any(name in members for members in found)]
    columns = {"row": names}
    for task, members in zip(panels, found, strict=True):
        columns[task.replace("\n", ": ")] = [with_interval(members[name]) if name in members else "" for name in names]
    if len(panels) > 1:
        scores = [[members[name].score for members in found if name in members] for name in names]
        columns["mean"] = [f"{sum(each) / len(each):.3f}" if len(each) == len(found) else "" for each in scores]
    numbers = [max(members[name].numbers for members in found if name in members) for name in names]
    columns["numbers"] = [f"{number:,}" for number in numbers]
    return columns


def with_interval(row: Row) -> str:
    return f"{row.score:.3f} [{row.low:.3f}, {row.high:.3f}]"
