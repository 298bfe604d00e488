"""Stage study: what the finished cells say on one question of the paper, as a table and a figure."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from lofit import studies
from lofit.errors import LofitError
from lofit.report.csv_file import write_csv
from lofit.report.evidence import Choice, Evidence
from lofit.report.markdown import from_columns
from lofit.report.plots import save
from lofit.storage.files import read_json, write_whole
from stages import paths
from stages.cells import SoFar, read_cells, with_rows
from stages.command import Run, main
from stages.plan import Plan, read_plan
from stages.tracking import STUDIES, track

PAGE = """# {title}

Model `{model}`. {words}

![{title}]({name}.png)

{tables}
"""


def study(name: Annotated[str, typer.Option(help="A page of lofit/studies.")], run: Run, so_far: SoFar = False) -> None:
    plan = read_plan("study", name)
    plan["cells"] = with_rows(plan["cells"], so_far=so_far)
    page = studies.find(name)
    with track(STUDIES, name, {"study": name, "run": run}) as tracker:
        with studied(name):
            made = page.study(read_evidence(run, plan), page.Settings.of(plan["settings"]))
        folder = paths.studies_folder(run)
        figure = folder / f"{name}.png"
        save(made.figure, figure)
        lines = [{key: shown(key, value) for key, value in line.items()} for line in made.table]
        columns = {key: [line[key] for line in lines] for key in lines[0] if any(line[key] for line in lines)}
        text = PAGE.format(
            title=page.TITLE,
            model=plan["cells"]["model"],
            words=made.words,
            name=name,
            tables="\n\n".join(map(from_columns, filter(None, (made.short, columns)))),
        )
        write_whole(folder / f"{name}.md", text)
        write_csv(folder / f"{name}.csv", [list(made.table[0]), *(map(exact, line.values()) for line in made.table)])
        tracker.artifact(figure, "studies")
        tracker.artifact(folder / f"{name}.csv", "studies")


@contextmanager
def studied(name: str) -> Iterator[None]:
    """Have a fault of a study's settings begin with its key in params.yaml."""
    try:
        yield
    except LofitError as error:
        raise LofitError(f"{paths.PARAMS}: studies.{name}.{error}") from None


def read_evidence(run: str, plan: Plan) -> Evidence:
    cells, settings = plan["cells"], read_json(paths.BASE_MODEL)["layout"]
    folds = {task: len(block["folds"]) for task, block in cells["tasks"].items()}
    return Evidence(
        model=cells["model"],
        shape=(settings["num_layers"], settings["num_heads"]),
        seeds=cells["seeds"],
        cells=read_cells(run, cells),
        choices={
            task: {row: Choice(choice["ranking"], choice["settings"]) for row, choice in rows.items()}
            for task, rows in plan["choices"].items()
        },
        kinds={task: block["kind"] for task, block in cells["tasks"].items()},
        train_sizes={
            task: read_json(paths.metrics_folder(run, task) / "preprocess.json")["train"] // folds[task]
            for task in folds
        },
        baseline=plan["baseline"],
    )


def shown(key: str, value: Any) -> str:
    """A value as it is read in a table."""
    if value is None:
        return ""
    if isinstance(value, float):
        # A probability is never zero.
        return "< 0.001" if key.endswith("p") and value < 0.0005 else f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def exact(value: Any) -> Any:
    return f"{value:.6f}" if isinstance(value, float) else value


if __name__ == "__main__":
    main(study)
