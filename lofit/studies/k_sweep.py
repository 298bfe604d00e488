"""How many heads to tune (LoFiT, Figure 5): scores of rows that differ in K.

The learning rate has to move with K: one rate for all K measures the rate. So each row searches its own on the
validation split, all rows over the same number of rates.
"""

from pydantic import Field

from lofit.report.evidence import Evidence, Study, StudySettings
from lofit.report.rows import Row
from lofit.report.study_plots import Line, Panel, line_panels
from lofit.settings import Name

TITLE = "How many heads to tune"

WORDS = """Each row tunes another number of heads; rows whose heads come from the same ranking make a line. A score is a
mean over {questions} test questions; bars are 95 % bootstrap intervals over them. Each row has searched its learning
rate on the validation split."""


class Settings(StudySettings):
    rows: list[Name] = Field(min_length=2)
    """Rows of LoFiT that differ in K."""


def study(evidence: Evidence, settings: Settings) -> Study:
    panels, table, ticks = [], [], set()
    for task in evidence.tasks:
        lines: dict[str, list[tuple[int, Row]]] = {}
        for row in evidence.rows(task, settings.rows):
            k = max(len(heads) for heads in evidence.heads(task, row.method).values())
            ranking = evidence.choices[task][row.method].ranking
            lines.setdefault(ranking, []).append((k, row))
            ticks.add(k)
            table.append(
                {
                    "task": task,
                    "ranking": ranking,
                    "row": row.method,
                    "k": k,
                    "share of heads": k / evidence.number_of_heads,
                    "score": row.score,
                    "low": row.low,
                    "high": row.high,
                    "trained numbers": row.trained_parameters,
                }
            )
        base = evidence.rows(task, [evidence.baseline]) if evidence.baseline else []
        panels.append(
            Panel(
                f"{task}: {row.metric}",
                [sorted_line(name, found) for name, found in lines.items()],
                base[0].score if base else None,
            )
        )
    names = {k: f"{k}\n{100 * k / evidence.number_of_heads:.2g} %" for k in sorted(ticks)}
    figure = line_panels(panels, label="heads tuned", ticks=names, caption=evidence.caption(evidence.tasks))
    questions = " / ".join(str(evidence.questions(task)) for task in evidence.tasks)
    return Study(table, figure, WORDS.format(questions=questions))


def sorted_line(name: str, found: list[tuple[int, Row]]) -> Line:
    ordered = sorted(found, key=lambda pair: pair[0])
    return Line(name, [k for k, _ in ordered], [row for _, row in ordered])
