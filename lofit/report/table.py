"""The rows written down: Markdown for each task, what each row is, and CSV."""

from collections.abc import Sequence
from dataclasses import fields

from lofit.report.markdown import from_columns
from lofit.report.rows import Facts, Row, by_task, primary_rows

LONGEST_HEADS = 60
"""Width of the column of heads, in characters. The CSV file holds all heads."""

MOST_WITH_HEADS = 8
"""With more rows than this, heads stand in a list of their own, and the tables stay narrow."""

FINE = ("share", "ce", "kl", "p", "corrected_p")
"""Columns of the CSV file that may be small and still mean something: six digits, where others have four."""


def primary_tables(rows: Sequence[Row], *, baseline: str | None) -> str:
    """A Markdown table of each task's first metric, below the header `## task: metric`.

    `baseline` is the method that gains are measured against. Without one there is no column of gains. Columns that
    would be empty are left out.
    """
    sections = []
    for task, members in by_task(primary_rows(rows)).items():
        columns = {"method": [row.method for row in members], **number_columns(members, baseline)}
        columns |= effort_columns(members)
        if len(members) <= MOST_WITH_HEADS:
            columns["heads"] = [short_heads(row.heads) for row in members]
        sections.append(f"## {task}: {members[0].metric}\n\n{from_columns(columns)}")
    return "\n\n".join(sections)


def other_tables(rows: Sequence[Row], *, baseline: str | None) -> str:
    """A Markdown table of each task's other metrics, below the header `### task`; empty where there are none."""
    primary = primary_rows(rows)
    sections = []
    for task, members in by_task([row for row in rows if row not in primary]).items():
        columns = {"metric": [row.metric for row in members], "method": [row.method for row in members]}
        columns |= number_columns(members, baseline)
        sections.append(f"### {task}\n\n{from_columns(columns)}")
    return "\n\n".join(sections)


def head_lists(rows: Sequence[Row]) -> str:
    """The heads of each row that has some, as a Markdown list by task; empty where the tables show them."""
    sections = []
    for task, members in by_task(primary_rows(rows)).items():
        with_heads = [row for row in members if any(row.heads)]
        if len(members) > MOST_WITH_HEADS and with_heads:
            lines = [f"- {row.method}: {short_heads(row.heads)}" for row in with_heads]
            sections.append("\n".join([f"{task}:", "", *lines]))
    return "\n\n".join(sections)


def facts_table(rows: Sequence[Row]) -> str:
    """A Markdown table of what each method is, once for all tasks. Numbers that tasks differ in are a range."""
    methods: dict[str, list[Row]] = {}
    for row in primary_rows(rows):
        methods.setdefault(row.method, []).append(row)
    members = list(methods.values())
    facts = [rows[0].facts for rows in members]
    columns = {
        "method": list(methods),
        "kind": [each.kind for each in facts],
        "site": [each.site for each in facts],
        "positions": [each.where for each in facts],
        "trained numbers": [span([row.trained_parameters for row in rows]) for rows in members],
    }
    shares = [[row.share for row in rows if row.share is not None] for rows in members]
    if any(shares):
        columns["% of model"] = ["-".join(dict.fromkeys(percent(end) for end in ends(values))) for values in shares]
    if any(row.numbers != row.trained_parameters for row in rows):
        columns["numbers held"] = [span([row.numbers for row in rows]) for rows in members]
    sizes = [[row.facts.adapter_bytes for row in rows if row.facts.adapter_bytes is not None] for rows in members]
    if any(sizes):
        columns["bytes"] = [span(values) for values in sizes]
    columns["served without lofit"] = [each.served_as or ("no" if each.kind else "") for each in facts]
    return from_columns(columns)


def ends(values: Sequence[float]) -> list[float]:
    """The lowest and the highest; nothing of nothing."""
    return [min(values), max(values)] if values else []


def span(values: Sequence[int]) -> str:
    return "-".join(dict.fromkeys(f"{round(end):,}" for end in ends(values)))


def percent(share: float) -> str:
    """A share in % with two digits that count: 0.0012, 1.5, 100."""
    if share == 0:
        return "0"
    digits = 1
    while round(share, digits) < 10 ** (1 - digits) and digits < 8:
        digits += 1
    return f"{share:.{digits}f}" if share < 10 else f"{share:.0f}"


def number_columns(rows: Sequence[Row], baseline: str | None) -> dict[str, list[str]]:
    """The columns from the score to the trained numbers.

    Beside a difference to a reference, which has an interval and a p, a gain is a number alone; and draws then have a
    table of their own (`lofit.report.controls`).
    """
    compared = any(row.difference is not None for row in rows)
    columns = {
        "score": [f"{row.score:.3f}" for row in rows],
        "95 % interval": [f"[{row.low:.3f}, {row.high:.3f}]" for row in rows],
    }
    if baseline is not None:
        columns[f"gain over {baseline}"] = [gain(row, interval=not compared) for row in rows]
    if compared:
        reference = next(row.reference for row in rows if row.difference is not None)
        columns[f"difference to {reference}"] = [difference(row) for row in rows]
        columns["corrected p"] = ["" if row.corrected_p is None else probability(row.corrected_p) for row in rows]
    elif any(row.draws > 1 for row in rows):
        columns["range over draws"] = [
            f"{row.lowest:.2f} to {row.highest:.2f} ({row.draws} draws)" if row.draws > 1 else "" for row in rows
        ]
    return columns


def gain(row: Row, *, interval: bool) -> str:
    if row.gain is None:
        return ""
    return f"{row.gain:+.3f}" + (f" [{row.gain_low:+.3f}, {row.gain_high:+.3f}]" if interval else "")


def difference(row: Row) -> str:
    if row.difference is None:
        return ""
    return f"{row.difference:+.3f} [{row.difference_low:+.3f}, {row.difference_high:+.3f}]"


def probability(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def effort_columns(rows: Sequence[Row]) -> dict[str, list[str]]:
    """What a score was reached with, and at what price: trained numbers, searched configurations, drift."""
    columns = {"trained numbers": [trained_numbers(row) for row in rows]}
    if any(row.facts.configurations > 1 for row in rows):
        columns["configurations"] = [str(row.facts.configurations) for row in rows]
    for name in ("ce", "kl"):
        values = [getattr(row, name) for row in rows]
        if any(value is not None for value in values):
            columns[f"drift {name.upper()}"] = [
                "" if value is None else f"{value:{'+' * (name == 'ce')}.3f}" for value in values
            ]
    return columns


def trained_numbers(row: Row) -> str:
    """How many numbers were trained, with their share of the model; and how many it holds if others."""
    share = f" ({percent(row.share)} %)" if row.share else ""
    held = f" (holds {row.numbers:,})" if row.numbers != row.trained_parameters else ""
    return f"{row.trained_parameters:,}{share}{held}"


def short_heads(draws: Sequence[str]) -> str:
    """The heads of the first draw, cut after LONGEST_HEADS characters, and how many draws follow it."""
    first, others = draws[0], len(draws) - 1
    shown = first if len(first) <= LONGEST_HEADS else f"{first[:LONGEST_HEADS].rsplit(' ', 1)[0]} ..."
    return f"{shown} and {others} other draw{'s' * (others > 1)}" if others else shown


def to_csv(rows: Sequence[Row]) -> list[list[str]]:
    """A header and all rows. The first column, `cell`, names task, metric and method for `dvc plots`.

    A number that is None is left empty. A slash separates the heads of draws.
    """
    names = [field.name for field in fields(Row) if field.name != "facts"]
    facts = [field.name for field in fields(Facts)]
    table = [["cell", *names, *facts]]
    for row in rows:
        values = [getattr(row, name) for name in names]
        # The numbers that are held are known of every row.
        values += [row.numbers if name == "numbers" else getattr(row.facts, name) for name in facts]
        texts = [as_text(value, 6 if name in FINE else 4) for name, value in zip((*names, *facts), values, strict=True)]
        table.append([f"{row.task} {row.metric} {row.method}", *texts])
    return table


def as_text(value: str | float | tuple[str, ...] | None, digits: int) -> str:
    match value:
        case None:
            return ""
        case float():
            return f"{value:.{digits}f}"
        case tuple():
            return " / ".join(value)
        case _:
            return str(value)
