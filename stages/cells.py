"""The finished cells of a run, as the report and the studies read them."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import typer

from lofit.adapters.kinds import load_adapter
from lofit.errors import LofitError
from lofit.report.rows import Cell, Facts
from lofit.storage.files import read_json
from lofit.storage.tables import read_ranking, read_scores
from lofit.storage.trials import read_trials
from stages import paths
from stages.mlflow_row import fitting_stage

SoFar = Annotated[bool, typer.Option("--so-far", help="Of an unfinished run: the rows that are there already.")]


def with_rows(settings: Mapping[str, Any], *, so_far: bool) -> dict[str, Any]:
    """The settings, with the rows of each task as `rows_of`: all, or those that are evaluated with every seed.

    Raises:
        LofitError: none is.
    """
    rows_of = {
        task: [row for row in settings["rows"] if not so_far or is_evaluated(task, row, settings["seeds"])]
        for task in settings["tasks"]
    }
    tasks = {task: block for task, block in settings["tasks"].items() if rows_of[task]}
    if not tasks:
        raise LofitError("--so-far: got no row that is evaluated; expected at least one, by `dvc repro`")
    return {**settings, "tasks": tasks, "rows_of": rows_of}


def is_evaluated(task: str, row: str, seeds: Iterable[int]) -> bool:
    return all(paths.scores_file(task, seed, row).exists() for seed in seeds)


def read_cells(run: str, settings: Mapping[str, Any]) -> dict[str, dict[str, list[Cell]]]:
    """By task and row, a cell for each seed.

    Args:
        settings: `tasks`, `rows_of` each task, `seeds`, and the `kinds` of the rows.
    """
    return {
        task: {
            row: [read_cell(run, task, seed, row, settings["kinds"][row]) for seed in settings["seeds"]]
            for row in settings["rows_of"][task]
        }
        for task in settings["tasks"]
    }


def read_cell(run: str, task: str, seed: int, row: str, kind: str) -> Cell:
    folder, scores = paths.metrics_folder(run, task, seed, row), read_scores(paths.scores_file(task, seed, row))
    drift = read_json(folder / "evaluate.json").get("drift")
    fitted = read_json(folder / f"{fitting_stage(task, row)}.json")
    return Cell(
        scores,
        read_ranking(paths.heads_file(task, seed, row)),
        # What is computed from activations is not trained.
        fitted["trained_parameters"] if fitted["steps"] else 0,
        facts=read_facts(task, seed, row, kind),
        drift=dict.fromkeys(scores, drift) if drift else {},
    )


def read_facts(task: str, seed: int, row: str, kind: str) -> Facts:
    """What a row is, as the adapter of its first part says."""
    folder = next(file.parent for file in sorted(paths.adapter_folder(task, seed, row).glob("*/config.json")))
    adapter = load_adapter(folder)
    tried = read_trials(paths.trials_file(task, seed, row))
    return Facts(
        kind=kind,
        site=adapter.site if adapter.tensors() else "",
        where=adapter.where if adapter.tensors() else "",
        served_as=adapter.served_as if adapter.tensors() else "the base model",
        numbers=sum(tensor.numel() for tensor in adapter.tensors().values()),
        adapter_bytes=sum(file.stat().st_size for file in folder.glob("*.safetensors")),
        configurations=max((len(some) for some in tried.values()), default=1),
    )
