"""The rows as Markdown and as CSV."""

import csv
from collections.abc import Sequence
from dataclasses import astuple, fields
from io import StringIO
from itertools import groupby

from benchmarks.cost import Limits
from benchmarks.goals import summary
from benchmarks.measure import Row, Series, growth_repeats
from lofit.report.markdown import aligned

HEADER = ("median ms", "lowest to highest", "ratio", "matrix GFLOP", "matrix GB", "peak MB", "% of limit", "difference")
LEGEND = """\
- *median ms*, *lowest to highest*: of runs in turns (a, b, c, a, b, c), after one that warms up; {repeats} of each, \
{half} in tables of growth.
- *ratio*: the median over that of the first row, which is lofit as it is; where several rows share a size, over that \
of the first of them.
- *matrix GFLOP*, *matrix GB*: operations of all matrix products, attention included, and the bytes of their operands \
and results.
- *peak MB*: the most that tensors made by the work took at a time, the model's weights not counted.
- *% of limit*: the least time for so many operations and bytes at the machine's limits, as a share of the median. \
Operands that stay in a processor's cache are not moved, and the limits are measured once, so that a bit more than \
100 can be met.
- *difference*: the largest one of a result from the first row's (or as noted), as a share of the largest number; with \
one of more than {tolerance:g} the benchmark fails. Empty: nothing to compare.
"""
TITLES = {
    "step1": "Step 1: scales of all heads",
    "step2": "Step 2: offsets of some heads",
    "labels": "Logits only at labels",
    "choices": "Multiple-choice scoring",
    "generation": "Generation",
    "training": "Training on a task's records",
    "lm-eval": "TruthfulQA beside lm-eval",
}


def markdown(
    series: Sequence[Series], rows: Sequence[Row], limits: Limits, *, setup: str, repeats: int, tolerance: float
) -> str:
    """The whole report: what was measured on, how to read it, and a table for each series."""
    legend = LEGEND.format(repeats=repeats, half=growth_repeats(repeats), tolerance=tolerance)
    machine = aligned(
        ("limit", "measured"),
        [
            ("big matrix product", f"{limits.flops / 1e9:,.0f} GFLOP/s"),
            ("big copy, read and written", f"{limits.bandwidth / 1e9:,.1f} GB/s"),
        ],
    )
    parts = ["# Benchmark", setup, legend.rstrip(), "## Limits of the machine", machine]
    if goals := summary(rows):
        parts += ["## Goals", goals]
    for group, members in groupby(series, key=lambda member: member.group):
        parts.append(f"## {TITLES[group]}")
        for member in members:
            own = [row for row in rows if (row.group, row.series) == (member.group, member.title)]
            title = f"growth with {member.grows}" if member.grows else member.title
            parts += [
                f"### {title[0].upper()}{title[1:]}",
                *filter(None, [member.note.strip(), member.found()]),
                one_table(member, own),
            ]
    return "\n\n".join(parts) + "\n"


def one_table(series: Series, rows: Sequence[Row]) -> str:
    sizes = (series.grows,) if series.grows else ()
    return aligned(
        ("variant", *sizes, *HEADER),
        [
            (
                row.name,
                *([f"{row.size:,}"] if row.size is not None else []),
                f"{row.median_ms:,.1f}",
                f"{row.low_ms:,.1f} to {row.high_ms:,.1f}",
                f"{row.ratio:.2f}",
                f"{row.gflop:,.2f}",
                f"{row.gigabytes:,.3f}",
                f"{row.peak_mb:,.1f}",
                f"{row.limit_percent:.0f}",
                "" if row.difference is None else f"{row.difference:.1e}" if row.difference else "0",
            )
            for row in rows
        ],
    )


def to_csv(rows: Sequence[Row], limits: Limits) -> str:
    """Every row with all its figures, the machine's limits first."""
    content = StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow([*(field.name for field in fields(Row)), "limit_gflops", "limit_gbs"])
    for row in rows:
        values = [
            "" if value is None else f"{value:.6g}" if isinstance(value, float) else value for value in astuple(row)
        ]
        writer.writerow([*values, f"{limits.flops / 1e9:.6g}", f"{limits.bandwidth / 1e9:.6g}"])
    return content.getvalue()
