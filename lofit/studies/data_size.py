"""How many examples LoFiT needs (LoFiT, Figure 4): scores of tasks that differ in their training examples alone.

The paper keeps the number of epochs, so that few examples also mean few steps: 25 examples make 20. A second line with
the same number of steps tells the two apart.
"""

from pydantic import Field

from lofit.report.evidence import Evidence, Study, StudySettings
from lofit.report.study_plots import Line, Panel, line_panels
from lofit.settings import Name

TITLE = "How many examples LoFiT needs"

WORDS = """The same test questions after training on more and more examples, drawn with one
seed. Bars are 95 % bootstrap intervals over questions; they do not hold the chance of the draw. Row: {row}."""


class Settings(StudySettings):
    series: dict[Name, list[Name]] = Field(min_length=1)
    """The lines of the figure, by name: tasks of one kind that differ in `train_size`, and in epochs where a line keeps
    the number of steps."""

    row: Name | None = None
    """The row to show; by default the first one whose heads step 1 has chosen."""


def study(evidence: Evidence, settings: Settings) -> Study:
    row_name = evidence.main_row(settings.row)
    panels: dict[str, list[Line]] = {}
    table, metrics, sizes = [], {}, set()
    for name, tasks in settings.series.items():
        places = sorted((evidence.train_sizes[task], task) for task in tasks)
        rows = [evidence.rows(task, [row_name])[0] for _, task in places]
        kind = evidence.kinds[tasks[0]]
        metrics[kind] = rows[0].metric
        panels.setdefault(kind, []).append(Line(name, [size for size, _ in places], rows))
        sizes |= {size for size, _ in places}
        for (size, task), row in zip(places, rows, strict=True):
            table.append(
                {
                    "line": name,
                    "task": task,
                    "examples": size,
                    "score": row.score,
                    "low": row.low,
                    "high": row.high,
                    "seeds": len(evidence.seeds),
                }
            )
    tasks = [tasks[0] for tasks in settings.series.values()]
    figure = line_panels(
        [Panel(f"{kind}: {metrics[kind]}", lines, base_of(evidence, lines)) for kind, lines in panels.items()],
        label="training examples",
        ticks={size: str(size) for size in sorted(sizes)},
        caption=evidence.caption(list({evidence.kinds[task]: task for task in tasks}.values())),
    )
    return Study(table, figure, WORDS.format(row=row_name))


def base_of(evidence: Evidence, lines: list[Line]) -> float | None:
    """The score of the untouched model, which does not depend on what the others have trained on."""
    rows = evidence.rows(lines[0].rows[0].task, [evidence.baseline]) if evidence.baseline else []
    return rows[0].score if rows else None
