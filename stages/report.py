"""Stage report: one table and two figures over the cells that params.yaml lists."""

import csv
from io import StringIO

from lofit import figures, report
from lofit.config import Params
from lofit.files import read_json, write_whole
from lofit.selection import read_heads, read_norms
from stages import workspace

SUMMARY = """# Results

Model `{model}`; {splits}; seeds {seeds}. Intervals are 95 % bootstrap
intervals over questions{over_seeds}; a gain is measured against the untouched base model on the same questions. Heads
are layer.head.

{table}

![Scores](scores.png)

Norms of the scaling vectors of step 1, by layer and head, for seed {first_seed}; framed: the heads that `{method}`
tunes.

![Norms of the scales](scale_norms.png)
"""


def read_cell(task: str, seed: int, method: str) -> report.Cell:
    where = workspace.place(task, seed, method)
    return report.Cell(
        report.read_scores(where.tables / "scores.csv"),
        read_heads(where.tables / "heads.csv"),
        read_json(where.metrics / "tune_bias.json")["trained_parameters"],
    )


def render() -> None:
    params = workspace.read_params()
    run = params.run
    rows: list[report.Row] = []
    baseline = next((method for method in run.methods if params.methods[method].kind == "base"), None)
    for task in run.tasks:
        cells = {method: [read_cell(task, seed, method) for seed in run.seeds] for method in run.methods}
        rows += report.rows_of_task(task, cells, baseline=baseline)

    out = workspace.REPORTS
    figures.save(figures.score_bars(main_metrics(rows)), out / "scores.png")
    figures.save(figures.heat_maps([grid(params, task) for task in run.tasks]), out / "scale_norms.png")
    summary = SUMMARY.format(
        model=params.model.name,
        seeds=", ".join(map(str, run.seeds)),
        splits=", ".join(f"{task} on its {split_of(task, params)} split" for task in run.tasks),
        over_seeds=" and seeds" if len(run.seeds) > 1 else "",
        table=report.markdown(rows),
        first_seed=run.seeds[0],
        method=framed_method(params),
    )
    table = StringIO()
    csv.writer(table, lineterminator="\n").writerows(report.to_csv(rows))
    write_whole(out / "summary.csv", table.getvalue())
    write_whole(out / "summary.md", summary)


def split_of(task: str, params: Params) -> str:
    """The split that a task's first cell was scored on."""
    metrics = workspace.place(task, params.run.seeds[0], params.run.methods[0]).metrics
    return next(iter(read_json(metrics / "evaluate.json")))


def main_metrics(rows: list[report.Row]) -> list[report.Row]:
    """The rows of each task's first metric."""
    first = {row.task: row.metric for row in reversed(rows)}
    return [row for row in rows if row.metric == first[row.task]]


def framed_method(params: Params) -> str:
    """The first method that tunes heads; the heat maps frame its choice."""
    tuning = (method for method in params.run.methods if params.methods[method].kind != "base")
    return next(tuning, params.run.methods[0])


def grid(params: Params, task: str) -> tuple:
    seed = params.run.seeds[0]
    norms = read_norms(workspace.place(task, seed).tables / "scale_norms.csv")
    heads = read_heads(workspace.place(task, seed, framed_method(params)).tables / "heads.csv")
    return task, norms, heads


if __name__ == "__main__":
    workspace.main(render)
