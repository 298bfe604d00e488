"""Stage report: the tables and figures over all cells, and the adapters with their scores in their cards."""

from pathlib import Path
from typing import Any

from lofit.report import plots, table
from lofit.report.answers import SHOWN, answer_tables
from lofit.report.comparison import compare, with_comparisons
from lofit.report.controls import control_table, controls
from lofit.report.costs import cost_csv, cost_of, cost_table
from lofit.report.csv_file import write_csv
from lofit.report.paper import compare_with_paper, read_figures
from lofit.report.rows import Row, primary_rows, rows_of_task
from lofit.report.trials import trial_tables
from lofit.report.wrong_answers import COMMONEST, wrong_answer_lists
from lofit.storage.files import read_json, read_jsonl, write_whole
from lofit.storage.tables import read_norms, read_ranking, read_scores
from lofit.storage.trials import read_trials
from lofit.tasks.record import read_records
from stages import paths
from stages.cells import SoFar, read_cells, with_rows
from stages.command import Run, main
from stages.costs import cost_of_cell
from stages.mlflow_row import fitting_stage, selecting_stage
from stages.plan import read_plan
from stages.release import write_release
from stages.report_out_of_domain import out_of_domain_section

SUMMARY = """# Results

Model `{model}`; {splits}; seeds {seeds}.
A score is a mean over {averaged}, with a 95 % bootstrap interval; a gain is measured against the
untouched base model on the same questions. Heads are layer.head.{compared}{drift}

{primary}

![Scores](scores.png)
"""

COMPARED = """
A difference is that to `{reference}` on the same questions (paired bootstrap); its p is after Holm's correction
over the {number} comparisons that params.yaml names."""

DRIFT = """
Drift is what a neutral text costs more than under the base, as cross-entropy and as KL divergence, in nats per
token."""

FIGURES = """![Scores against trained numbers](pareto.png)

Norms of the scaling vectors of step 1, by layer and head, for seed {first_seed}; framed: the heads that `{framed}`
tunes.

![Norms of the scales](scale_norms.png)
"""

PAPER = """The paper's figures for this model, quoted from their source, and ours under the same protocol:

{table}
"""

WRONG = """# Wrong answers

Model `{model}`. Of the tasks scored by exact match, the {commonest} commonest wrong answers of each row, counted over
{averaged}, each with what was right for the first question that was answered so.

{lists}
"""

NO_WRONG = """# Wrong answers

Model `{model}`. No task is scored by exact match.
"""

ANSWERS = """# Answers before and after

Model `{model}`. Of each task the first {shown} questions that were scored, seed {first_seed}; of a multiple choice, the
answer with the highest probability. Long prompts are shown from near their end.

{tables}
"""

COSTS = """# What each row has cost

Model `{model}`. Measured where the stages ran, not the same twice, and no part of what DVC compares. Training includes
all settings that a row has searched, less those that had been tried before; selection is what scoring the heads took.

{table}
"""


def report(run: Run, so_far: SoFar = False) -> None:
    plan = read_plan("report")
    settings, out = with_rows(plan["settings"], so_far=so_far), paths.reports_folder(run)
    cells = read_cells(run, settings)
    size = read_json(paths.BASE_MODEL)["parameters"]
    rows: list[Row] = []
    for task, found in cells.items():
        rows += rows_of_task(task, found, baseline=plan["baseline"], model_size=size)
    reference = (settings["comparisons"] or {}).get("reference")
    compared = compare(cells, reference=reference, methods=settings["comparisons"]["rows"]) if reference else []
    rows = with_comparisons(rows, compared)
    for task, block in settings["tasks"].items():
        for row, seed in ((row, seed) for row in settings["rows_of"][task] for seed in settings["seeds"]):
            release(task, seed, row, block["split"])
    framed = next(iter(settings["lofit_rows"]), None)
    draw_figures(out, settings, rows, plan["baseline"], framed)
    averaged = averaged_dimensions(settings, rows)
    summary = SUMMARY.format(
        model=settings["model"],
        seeds=", ".join(map(str, settings["seeds"])),
        splits=", ".join(f"{task} on its {block['split']} split" for task, block in settings["tasks"].items()),
        averaged=averaged,
        compared=COMPARED.format(reference=reference, number=len(compared)) if compared else "",
        drift=DRIFT if any(row.kl is not None for row in rows) else "",
        primary=table.primary_tables(rows, baseline=plan["baseline"]),
    )
    figures = FIGURES.format(first_seed=settings["seeds"][0], framed=framed)
    sections = {
        "What each row is": table.facts_table(rows),
        "The paper's figures": paper_section(settings, rows),
        "Out of domain": out_of_domain_section(run, settings, rows, plan["baseline"]),
        "Random heads": control_table(controls(cells, reference=reference or framed)) if framed else "",
        "Figures": figures,
        "Other metrics": table.other_tables(rows, baseline=plan["baseline"]),
        "Answers before and after": answers(out / "answers.md", settings, plan["baseline"], reference or framed),
        "Wrong answers": wrong_answers(out / "wrong_answers.md", settings, averaged),
        "Searched settings": trial_tables(trials(settings)),
        "Heads": table.head_lists(rows),
    }
    parts = [summary, *(f"# {title}\n\n{text}" for title, text in sections.items() if text)]
    write_whole(out / "summary.md", "\n\n".join(part.strip() for part in parts) + "\n")
    write_csv(out / "summary.csv", table.to_csv(rows))
    write_costs(out, settings)


def release(task: str, seed: int, row: str, split: str) -> None:
    """Copy a row's adapters to artifacts/release, with their scores in their cards."""
    scores = {
        part: {name: column.tolist() for name, column in columns.items()}
        for part, columns in read_scores(paths.scores_file(task, seed, row)).items()
    }
    write_release(paths.RELEASE / task / str(seed) / row, scores, split, task, seed, row)


def draw_figures(
    out: Path, settings: dict[str, Any], rows: list[Row], baseline: str | None, framed: str | None
) -> None:
    primary = primary_rows(rows)
    plots.save(plots.score_bars(primary), out / "scores.png")
    some = any(row.numbers for row in primary)
    nothing = plots.message("No row has numbers of its own.")
    plots.save(plots.pareto(primary, baseline=baseline, highlight=framed) if some else nothing, out / "pareto.png")
    grids = [norms for task in settings["tasks"] if framed and (norms := grid(settings, task, framed))]
    picture = plots.heat_maps(grids) if grids else plots.message("No row needs step 1, so it was not run.")
    plots.save(picture, out / "scale_norms.png")


def trials(settings: dict[str, Any]) -> dict[str, dict[str, list[list[dict[str, Any]]]]]:
    """What was tried on validation records, by task and row: a search for each seed and part."""
    return {
        task: {
            row: [
                some for seed in settings["seeds"] for some in read_trials(paths.trials_file(task, seed, row)).values()
            ]
            for row in settings["rows_of"][task]
        }
        for task in settings["tasks"]
    }


def wrong_answers(file: Path, settings: dict[str, Any], averaged: str) -> str:
    """Write the wrong answers of all rows; returns what the summary says of them, nothing where there are none."""
    predictions = {
        task: {
            row: [one for seed in settings["seeds"] for one in read_jsonl(paths.predictions_file(task, seed, row))]
            for row in settings["rows_of"][task]
        }
        for task in settings["tasks"]
    }
    lists = wrong_answer_lists(predictions)
    form = WRONG if lists else NO_WRONG
    write_whole(file, form.format(model=settings["model"], commonest=COMMONEST, averaged=averaged, lists=lists))
    return f"[{file.name}]({file.name}) has the {COMMONEST} commonest ones of each row." if lists else ""


def answers(file: Path, settings: dict[str, Any], baseline: str | None, row: str | None) -> str:
    """Write what the baseline and a row answer to the first questions; returns what the summary says of it."""
    seed = settings["seeds"][0]
    rows = [name for name in dict.fromkeys((baseline, row)) if name is not None]
    tasks = {
        task: (
            read_records(paths.data_folder(task), block["split"]),
            {
                name: read_jsonl(paths.predictions_file(task, seed, name))
                for name in rows
                if name in settings["rows_of"][task]
            },
        )
        for task, block in settings["tasks"].items()
    }
    text = ANSWERS.format(model=settings["model"], shown=SHOWN, first_seed=seed, tables=answer_tables(tasks))
    write_whole(file, text)
    return f"[{file.name}]({file.name}) has those to the first {SHOWN} questions of each task."


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


def grid(settings: dict[str, Any], task: str, framed: str) -> tuple | None:
    """A task's norms for the first fold of its first seed, with the heads to frame; None where step 1 was not run."""
    seed = settings["seeds"][0]
    norms = read_norms(paths.scales_folder(task, seed) / "norms.csv")
    if not norms or framed not in settings["rows_of"][task]:
        return None
    fold = min(norms)
    heads = read_ranking(paths.heads_file(task, seed, framed))
    return task if len(norms) == 1 else f"{task}, fold {fold}", norms[fold], heads.get((1, fold), [])


def write_costs(out: Path, settings: dict[str, Any]) -> None:
    """Write what is known of the rows' costs, where anything is; DVC does not know of these files."""
    costs = [
        cost_of(
            task,
            row,
            [
                cost_of_cell(task, seed, row, fitting=fitting_stage(task, row), selecting=selecting_stage(task, row))
                for seed in settings["seeds"]
            ],
        )
        for task in settings["tasks"]
        for row in settings["rows_of"][task]
    ]
    if any(cost.training_seconds is not None for cost in costs):
        write_whole(out / "costs.md", COSTS.format(model=settings["model"], table=cost_table(costs)))
        write_csv(out / "costs.csv", cost_csv(costs))


if __name__ == "__main__":
    main(report)
