"""Stage report: the tables and figures over all cells, and the adapters with their scores in their cards."""

import csv
from io import StringIO
from typing import Any

from lofit.report import plots, table
from lofit.report.paper import compare_with_paper, read_figures
from lofit.report.rows import Cell, Row, primary_rows, rows_of_task
from lofit.storage.files import read_json, write_whole
from lofit.storage.tables import read_norms, read_ranking, read_scores
from stages import paths
from stages.command import Run, main
from stages.plan import read_plan
from stages.release import write_release

SUMMARY = """# Results

Model `{model}`; {splits}; seeds {seeds}.
A score is a mean over {averaged}, with a 95 % bootstrap interval; a gain is measured against the
untouched base model on the same questions. Heads are layer.head.

{primary}
{paper}
![Scores](scores.png)

Norms of the scaling vectors of step 1, by layer and head, for seed {first_seed}; framed: the heads that `{framed}`
tunes.

![Norms of the scales](scale_norms.png)

# Other metrics

{others}
"""


PAPER = """
# The paper's figures

The paper's figures for this model, quoted from their source, and ours under the same protocol:

{table}
"""


def report(run: Run) -> None:
    plan = read_plan("report")
    settings, out = plan["settings"], paths.reports_folder(run)
    rows: list[Row] = []
    for task in settings["tasks"]:
        cells = {row: [read_cell(run, task, seed, row) for seed in settings["seeds"]] for row in settings["rows"]}
        rows += rows_of_task(task, cells, baseline=plan["baseline"])
        for row in settings["rows"]:
            for seed in settings["seeds"]:
                release(task, seed, row, settings["tasks"][task]["split"])

    framed = next(iter(settings["lofit_rows"]), None)
    plots.save(plots.score_bars(primary_rows(rows)), out / "scores.png")
    grids = [norms for task in settings["tasks"] if (norms := grid(settings, task, framed))]
    picture = plots.heat_maps(grids) if grids else plots.message("No row needs step 1, so it was not run.")
    plots.save(picture, out / "scale_norms.png")
    summary = SUMMARY.format(
        model=settings["model"],
        seeds=", ".join(map(str, settings["seeds"])),
        splits=", ".join(f"{task} on its {block['split']} split" for task, block in settings["tasks"].items()),
        averaged=averaged_dimensions(settings, rows),
        primary=table.primary_tables(rows, baseline=plan["baseline"]),
        others=table.other_tables(rows, baseline=plan["baseline"]) or "None.",
        paper=paper_section(settings, rows),
        first_seed=settings["seeds"][0],
        framed=framed,
    )
    text = StringIO()
    csv.writer(text, lineterminator="\n").writerows(table.to_csv(rows))
    write_whole(out / "summary.csv", text.getvalue())
    write_whole(out / "summary.md", summary)


def read_cell(run: str, task: str, seed: int, row: str) -> Cell:
    folder = paths.metrics_folder(run, task, seed, row)
    fitted = next(file for name in ("tune_bias", "fit_baseline") if (file := folder / f"{name}.json").exists())
    return Cell(
        read_scores(paths.scores_file(task, seed, row)),
        read_ranking(paths.heads_file(task, seed, row)),
        read_json(fitted)["trained_parameters"],
    )


def release(task: str, seed: int, row: str, split: str) -> None:
    """Copy a row's adapters to artifacts/release, with their scores in their cards."""
    scores = {
        part: {name: column.tolist() for name, column in columns.items()}
        for part, columns in read_scores(paths.scores_file(task, seed, row)).items()
    }
    write_release(paths.RELEASE / task / str(seed) / row, scores, split, task, seed, row)


def averaged_dimensions(settings: dict[str, Any], rows: list[Row]) -> str:
    """What a score is a mean over."""
    dimensions = ["questions"]
    dimensions += ["folds"] * any(len(task["folds"]) > 1 for task in settings["tasks"].values())
    dimensions += ["draws of heads"] * any(row.draws > 1 for row in rows)
    dimensions += ["seeds"] * (len(settings["seeds"]) > 1)
    return " and ".join([", ".join(dimensions[:-1]), dimensions[-1]]) if len(dimensions) > 1 else dimensions[0]


def paper_section(settings: dict[str, Any], rows: list[Row]) -> str:
    """The paper's figures for this model next to ours; nothing where there are none."""
    found = read_figures(paths.PAPER, settings["model"])
    if not found:
        return ""
    kinds = {task: block["kind"] for task, block in settings["tasks"].items()}
    return PAPER.format(table=compare_with_paper(found, rows, kinds))


def grid(settings: dict[str, Any], task: str, framed: str | None) -> tuple | None:
    """A task's norms for the first fold of its first seed, with the heads to frame; None where step 1 was not run."""
    seed = settings["seeds"][0]
    norms = read_norms(paths.scales_folder(task, seed) / "norms.csv")
    if not norms or framed is None:
        return None
    fold = min(norms)
    heads = read_ranking(paths.heads_file(task, seed, framed))
    return task if len(norms) == 1 else f"{task}, fold {fold}", norms[fold], heads.get((1, fold), [])


if __name__ == "__main__":
    main(report)
