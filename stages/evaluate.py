"""Stage evaluate: score the tuned model, and log the complete MLflow row of the cell."""

from pathlib import Path

from lofit.adapters.kinds import load_adapter
from lofit.errors import LofitError
from lofit.models.runtime import be_deterministic
from lofit.scoring.drift import drift
from lofit.scoring.metrics import means
from lofit.scoring.predict import predict, score_table
from lofit.storage.files import read_json, write_json, write_jsonl
from lofit.storage.tables import Part, write_scores
from lofit.tasks.record import by_fold, read_metric, read_records
from stages import paths
from stages.command import Method, Run, Seed, Task, main
from stages.mlflow_row import log_cell, log_scores
from stages.model import load_base, read_base
from stages.plan import read_plan
from stages.tracking import CELLS, track


def evaluate(task: Task, seed: Seed, method: Method, run: Run) -> None:
    settings = read_plan("evaluate", task, method)["settings"]
    split, text = settings.pop("split"), settings.pop("drift")
    with track(CELLS, f"{task}/{method}/{seed}", {"task": task, "seed": seed, "method": method}) as tracker:
        log_cell(tracker, run, task, seed, method)
        be_deterministic()
        base = read_base()
        model, tokenizer = load_base(base)
        data = paths.data_folder(task)
        metric, records = read_metric(data), by_fold(read_records(data, split))
        predictions, drifts = {}, []
        for part, folder in adapter_folders(task, seed, method).items():
            adapter = load_adapter(folder)
            if adapter.provenance.base_revision != base.revision:
                raise LofitError(
                    f"{folder}: made for another revision of {base.name}; expected after `dvc repro`: this one"
                )
            if text is not None:
                drifts.append(drift(model, tokenizer, Path(text).read_text(encoding="utf-8"), adapter, base.layout))
            with adapter.to(model.device).attach(model, base.layout):
                predictions[part] = predict(
                    model, tokenizer, records[part[1]], metric, **settings, reading=adapter.reader
                )
        scores = {part: score_table(rows, metric) for part, rows in predictions.items()}
        rows = (
            {**row.to_json(), **({"draw": part[0]} if len(scores) > len(records) else {})}
            for part, made in predictions.items()
            for row in made
        )
        write_jsonl(paths.predictions_file(task, seed, method), rows)
        write_scores(paths.scores_file(task, seed, method), scores)
        figures = {split: means(scores)}
        if drifts:
            figures["drift"] = {name: round(sum(one[name] for one in drifts) / len(drifts), 6) for name in drifts[0]}
            tracker.metrics({f"drift/{name}": value for name, value in figures["drift"].items()})
        write_json(paths.metrics_folder(run, task, seed, method) / "evaluate.json", figures)
        log_scores(tracker, scores, split, task, seed, method)


def adapter_folders(task: str, seed: int, method: str) -> dict[Part, Path]:
    """The folder of each part's adapter, as the stage that fitted it says in its provenance."""
    folders = {}
    for config in sorted(paths.adapter_folder(task, seed, method).glob("*/config.json")):
        training = read_json(config)["training"]
        folders[int(training["draw"]), int(training["fold"])] = config.parent
    return dict(sorted(folders.items()))


if __name__ == "__main__":
    main(evaluate)
