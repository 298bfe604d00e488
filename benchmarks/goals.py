"""What the measurements of a real model are held against: how many times faster, or smaller, lofit is to be."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.measure import Row
from benchmarks.training import LOFIT, LORA, PUBLISHED
from lofit.report.markdown import aligned


@dataclass(frozen=True)
class Goal:
    """A ratio of another way's figure to lofit's, and the least that it should be."""

    text: str

    ratio: float

    least: float


def goals(rows: Sequence[Row]) -> list[Goal]:
    """Those that these rows can answer."""
    return [*training_goals([row for row in rows if row.group == "training"]), *scoring_goals(rows)]


def training_goals(rows: Sequence[Row]) -> Iterator[Goal]:
    tasks = dict.fromkeys(row.series.partition(",")[0] for row in rows)
    for task in tasks:
        own = [row for row in rows if row.series.partition(",")[0] == task]
        steps = list(dict.fromkeys(row.series for row in own))
        # The report is written after each series.
        if len(steps) > 1:
            total = {name: sum(row.median_ms for row in own if row.name == name) for name in (LOFIT, PUBLISHED)}
            yield Goal(f"{task}: time of the published form, both steps together", total[PUBLISHED] / total[LOFIT], 4.0)
        for series in steps:
            by_name = {row.name: row for row in own if row.series == series}
            lofit, lora = by_name[LOFIT], by_name[LORA]
            yield Goal(f"{series}: time of LoRA's step, lofit's loop", lora.median_ms / lofit.median_ms, 1.0)
            yield Goal(f"{series}: memory of LoRA's step, lofit's loop", lora.peak_mb / lofit.peak_mb, 1.0)


def scoring_goals(rows: Sequence[Row]) -> Iterator[Goal]:
    own = [row for row in rows if row.group == "lm-eval"]
    for row in own[1:]:
        yield Goal(f"scoring: time of {row.name}", row.median_ms / own[0].median_ms, 8.0)


def summary(rows: Sequence[Row]) -> str:
    """The goals as a Markdown table, and the largest difference of a log-probability; nothing without such rows."""
    lines = [
        (goal.text, f"{goal.ratio:.2f}", f"{goal.least:g}", "yes" if goal.ratio >= goal.least else "no")
        for goal in goals(rows)
    ]
    if not lines:
        return ""
    table = aligned(("as a multiple of lofit's", "measured", "at least", "met"), lines)
    distances = [row.absolute for row in rows if row.group == "lm-eval" and row.absolute is not None]
    if distances:
        table += f"\n\nLargest difference of an answer's log-probability from lm-eval's: {max(distances):.1e} nats."
    return table
