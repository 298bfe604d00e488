"""The plan: for each stage, what decides its result and DVC cannot see by itself.

The stage check writes one small file for each cell of each stage, on which that stage depends. It holds the effective
settings, with every default filled in, and a hash of the code (see `stages.params.code`). So an edit of a page, of a
default or of one row's block reruns the cells that it reaches and no others.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lofit import methods, rankings
from lofit.models.identity import file_hash, folder_hash
from lofit.storage.files import write_json
from stages.params import effective, out_of_domain, studies
from stages.params.code import code_hash
from stages.params.schema import Params
from stages.paths import model_notes
from stages.plan import Plan, plan_file


def write_plans(params: Params) -> None:
    """Write the plan of every cell that `params` asks for."""
    for (stage, *cell), plan in plans(params):
        write_json(plan_file(stage, *cell), plan)


def plans(params: Params) -> Iterator[tuple[tuple[str, ...], Plan]]:
    """Each cell, as stage, task and row, with its plan."""
    run, model = params.run, params.model
    demo = model.name == "demo"
    yield ("demo_model",), {"world": model.world if demo else None, "code": code_hash("stages.demo_model")}
    settings = model.model_dump(exclude={"world"})
    files = None if demo else model_files(Path(model.name))
    yield ("base_model",), {"settings": settings, "files": files, "code": code_hash("stages.base_model")}
    tasks = {
        task: {"kind": block.kind, "folds": block.preprocess.folds, "split": block.evaluate.split}
        for task, block in params.tasks.items()
        if task in run.tasks
    }
    settings = {
        **{
            "model": model.full_name,
            "tasks": tasks,
            "seeds": run.seeds,
            "rows": run.rows,
            "lofit_rows": run.lofit_rows,
        },
        "comparisons": run.comparisons and run.comparisons.model_dump(),
        "kinds": {row: params.methods[row].kind for row in run.rows},
        "out_of_domain": run.out_of_domain,
    }
    baseline = next((row for row in run.baselines if params.methods[row].kind == "none"), None)
    # The cards of adapters are made here.
    code = code_hash("stages.report", "lofit.adapters.card")
    yield ("report",), {"settings": settings, "baseline": baseline, "code": code}
    cells = {key: settings[key] for key in ("model", "tasks", "seeds", "rows", "kinds")}
    for study in run.studies:
        yield ("study", study), {**studies.plan(params, study), "cells": cells, "baseline": baseline}
    for task in run.tasks:
        yield from task_plans(params, task)
        for row in run.rows:
            yield from row_plans(params, task, row)


def task_plans(params: Params, task: str) -> Iterator[tuple[tuple[str, ...], Plan]]:
    """The cells of a task that all rows share."""
    run, block = params.run, params.tasks[task]
    page = f"lofit.tasks.{block.kind}"
    fetched = block.fetch_data.model_dump()
    yield (
        ("fetch_data", task),
        {
            "kind": block.kind,
            "settings": fetched,
            "files": files_hash(fetched["source"]),
            "code": code_hash("stages.fetch_data"),
        },
    )
    settings = block.preprocess.model_dump()
    code = code_hash("stages.preprocess", page)
    limits = lengths(params, task) if block.preprocess.overlong != "refuse" else None
    yield ("preprocess", task), {"kind": block.kind, "settings": settings, "limits": limits, "code": code}
    yield ("reference", task), {"code": code_hash("stages.reference")}
    scales = block.train_scales.model_dump() if block.train_scales else {}
    # Step 1 is for the rows whose heads come from it.
    needed = bool(run.methods or run.transfers)
    yield ("train_scales", task), {"needed": needed, "settings": scales, "code": code_hash("stages.train_scales")}
    read = {"needed": bool(run.readers or run.probed), "seed": block.preprocess.seed, "folds": block.preprocess.folds}
    yield ("collect_activations", task), {**read, "code": code_hash("stages.collect_activations")}


def lengths(params: Params, task: str) -> dict[str, int]:
    """The longest example that every row of a task can train on, and the longest answer of a row; in tokens."""
    run, block = params.run, params.tasks[task]
    trained: list[Any] = [block.train_scales]
    for row in run.lofit_rows:
        trained += effective.tune_bias(params, task, row).candidates
    for row in run.fitted_rows:
        trained += effective.fit(params, task, row)[0].candidates
    limits = [limit for settings in trained if (limit := getattr(settings, "max_length", None)) is not None]
    answers = [effective.evaluate(params, task, row).max_new_tokens for row in run.rows]
    return {"max_length": min(limits), "new_tokens": max(answers)}


def row_plans(params: Params, task: str, row: str) -> Iterator[tuple[tuple[str, ...], Plan]]:
    """The cells of a row on a task."""
    folds = params.tasks[task].preprocess.folds
    scoring = effective.evaluate(params, task, row).model_dump()
    if row in params.run.fitted_rows:
        page = params.methods[row].kind
        fit, arguments = effective.fit(params, task, row)
        pages = [f"lofit.methods.{page}", *ranking_pages(methods.find(page).RANKING, arguments)]
        reads = row in params.run.readers
        pages += ["lofit.training.activations"] if reads else []
        yield (
            ("fit_baseline", task, row),
            {
                "method": page,
                "folds": folds,
                "arguments": arguments,
                "reads_activations": reads,
                **search_plan(fit, scoring),
                "code": code_hash("stages.fit_baseline", *pages, *search_pages(fit)),
            },
        )
    else:
        chosen = effective.selection(params, task, row)
        measured = chosen.page.NEEDS in ("subject", "activations")
        if measured:
            settings = chosen.settings.model_dump(mode="json")
            read = ["lofit.training.activations"] if chosen.page.NEEDS == "activations" else []
            code = code_hash("stages.measure_heads", chosen.page.__name__, *read)
            plan = {"ranking": chosen.ranking, "settings": settings, "folds": folds, "code": code}
            yield ("measure_heads", task, row), plan
        yield (
            ("select_heads", task, row),
            {
                "k": chosen.k,
                "ranking": chosen.ranking,
                "settings": {} if measured else chosen.settings.model_dump(mode="json"),
                "measured": measured,
                "folds": folds,
                "files": files_hash(getattr(chosen.settings, "file", "")),
                "code": code_hash("stages.select_heads", *([] if measured else [chosen.page.__name__])),
            },
        )
        fit = effective.tune_bias(params, task, row)
        code = code_hash("stages.tune_bias", "lofit.methods.lofit", *search_pages(fit))
        yield ("tune_bias", task, row), {**search_plan(fit, scoring), "code": code}
    files = files_hash(scoring["drift"] or "")
    yield ("evaluate", task, row), {"settings": scoring, "files": files, "code": code_hash("stages.evaluate")}
    if row in params.run.out_of_domain:
        yield ("out_of_domain", task, row), out_of_domain.plan(params.out_of_domain)


def search_plan(fit: effective.Fit, scoring: dict[str, Any]) -> Plan:
    """The settings of a fit; where some are searched, also which ones, and how they are scored."""
    if not fit.tune:
        return {"settings": fit.settings}
    scored = {key: scoring[key] for key in ("batch_size", "max_new_tokens")}
    return {"settings": fit.settings, "tune": fit.tune, "scoring": scored}


def search_pages(fit: effective.Fit) -> list[str]:
    """The code that only a search runs."""
    return ["lofit.fitting.search"] if fit.tune else []


def model_files(place: Path) -> str | None:
    """SHA-256 of a model that is a folder or a file; None where it is neither."""
    if place.is_dir():
        return folder_hash(place, notes=model_notes())
    return file_hash(place, notes=model_notes()) if place.is_file() else None


def files_hash(place: str) -> str | None:
    """SHA-256 of a file, or of the files of a folder; None where `place` is neither."""
    path = Path(place)
    if not place or not path.exists():
        return None
    return folder_hash(path) if path.is_dir() else file_hash(path)


def ranking_pages(default: str | None, arguments: dict[str, Any]) -> list[str]:
    """The pages that rank a baseline's heads: none where the method selects none."""
    if default is None:
        return []
    name = arguments.get("ranking") or default
    # A ranking by scales trains step 1, whose page it need not import itself.
    step_1 = ["lofit.rankings.scale_norm"] if rankings.find(name).NEEDS == "scales" else []
    return [f"lofit.rankings.{name}", *step_1]
