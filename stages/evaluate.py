"""Stage evaluate: score the tuned model, and log the complete MLflow row of the cell."""

from lofit import blocks
from lofit.adapter_folder import WEIGHTS_FILE
from lofit.files import read_json, write_json, write_jsonl
from lofit.history import read_history
from lofit.selection import read_heads, read_norms
from lofit.tasks.record import SPLITS, by_fold, read_judgement, read_records
from lofit.tracking import CELLS, Tracker, flatten, track
from stages import workspace


def evaluate(task: workspace.Task, seed: workspace.Seed, method: workspace.Method) -> None:
    params = workspace.read_params()
    block = params.cell(task, method).evaluate
    where = workspace.place(task, seed, method)
    with track(CELLS, f"{task}/{method}/{seed}", {"task": task, "seed": seed, "method": method}) as run:
        log_inputs(run, params, task, seed, method)
        log_upstream(run, task, seed, method)
        from lofit import models, scoring
        from lofit.adapter import HeadAdapter
        from lofit.export.served import served

        models.be_deterministic()
        base = workspace.read_base_model(params)
        records = by_fold(read_records(workspace.data_folder(task), block.split))
        judgement = read_judgement(workspace.data_folder(task))
        adapters = {fold: HeadAdapter.from_pretrained(workspace.adapter_folder(where, fold)) for fold in records}
        predictions = {}
        for fold, rows in records.items():
            with served(base, adapters[fold], block.through, scratch=where.artifacts) as (model, tokenizer):
                predictions[fold] = scoring.predict(
                    model,
                    tokenizer,
                    rows,
                    judgement,
                    batch_size=block.batch_size,
                    max_new_tokens=block.max_new_tokens,
                )
            # The next fold's may need the room.
            del model
        scores = {fold: scoring.table(rows, judgement) for fold, rows in predictions.items()}
        means = scoring.means(scores)
        write_jsonl(
            where.artifacts / "predictions.jsonl",
            (row.to_json() for rows in predictions.values() for row in rows),
        )
        scoring.write_scores(where.tables / "scores.csv", scores)
        write_json(where.metrics / "evaluate.json", {block.split: means})
        run.metrics(named(means, block.split))
        for fold, adapter in adapters.items():
            metrics = named(scoring.means({fold: scores[fold]}), block.split)
            adapter.provenance = adapter.provenance.with_metrics(metrics)
            adapter.save_pretrained(workspace.adapter_folder(where, fold, "release"))
        run.show_columns(f"{block.split}/{name}" for name in scores[min(scores)] if not name.startswith("mc3"))
        run.artifact(where.artifacts / "release", "adapter")
        run.artifact(where.artifacts / "predictions.jsonl")


def named(scores: dict[str, float], split: str) -> dict[str, float]:
    """Scores by the names that they have in MLflow and in model cards."""
    return {f"{split}/{name}": value for name, value in scores.items()}


def log_inputs(run: Tracker, params: blocks.Params, task: str, seed: int, method: str) -> None:
    """Parameters of every stage that made the cell, and tags that join it to code and data."""
    kind = params.methods[method].kind
    blocks = params.cell(task, method).model_dump()
    if kind == "base":
        blocks = {stage: blocks[stage] for stage in ("kind", "fetch_data", "preprocess", "evaluate")}
    cell = {"task": task, "seed": seed, "method": method, "method.kind": kind}
    model = params.model.model_dump() | {"revision": read_json(workspace.BASE_MODEL)["revision"]}
    run.params({**cell, **flatten({"model": model, **blocks})})
    data, where = workspace.data_folder(task), workspace.place(task, seed, method)
    folds = params.task(task).preprocess.folds
    files = {
        "md5.scales": [workspace.place(task, seed).artifacts / "scales.safetensors"],
        "md5.adapter": [workspace.adapter_folder(where, fold) / WEIGHTS_FILE for fold in folds],
        **{f"md5.{split}": [data / f"{split}.jsonl"] for split in SPLITS},
    }
    run.tags({name: workspace.joined_md5(paths) for name, paths in files.items()})


def log_upstream(run: Tracker, task: str, seed: int, method: str) -> None:
    """Results of the stages before this one, read from their files: they may have run long ago, or elsewhere."""
    if not run.active:
        return
    where, shared = workspace.place(task, seed, method), workspace.place(task, seed)
    heads = read_heads(where.tables / "heads.csv")
    for stage, home in (("train_scales", shared), ("tune_bias", where)) if heads else ():
        figures = read_json(home.metrics / f"{stage}.json")
        run.metrics({f"{stage}/{name}": value for name, value in figures.items()})
        for row in read_history(home.artifacts / f"{stage}.csv"):
            run.metrics({f"{stage}/loss": row["loss"]}, step=int(row["step"]))
    run.metrics({"trained_parameters": read_json(where.metrics / "tune_bias.json")["trained_parameters"]})
    run.artifact(where.tables / "heads.csv")
    if heads:
        norms = read_norms(shared.tables / "scale_norms.csv")
        title = f"{task}, {method}, seed {seed}"
        several = len(heads) > 1
        grids = [(f"{title}, fold {fold}" if several else title, norms[fold], heads[fold]) for fold in heads]
        run.heat_maps(grids)


if __name__ == "__main__":
    workspace.main(evaluate)
