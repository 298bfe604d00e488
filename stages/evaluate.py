"""Stage evaluate: score the tuned model, and log the complete MLflow row of the cell."""

from hashlib import md5

from lofit import config, models, scoring
from lofit.adapter import WEIGHTS_FILE, HeadAdapter
from lofit.files import read_json, write_json, write_jsonl
from lofit.history import read_history
from lofit.selection import read_heads, read_norms
from lofit.tasks.record import SPLITS, read_judgement, read_records
from lofit.tracking import CELLS, Tracker, flatten, track
from stages import workspace


def evaluate(task: workspace.Task, seed: workspace.Seed, method: workspace.Method) -> None:
    params = workspace.read_params()
    block = params.cell(task, method).evaluate
    base = workspace.read_base_model(params)
    where = workspace.place(task, seed, method)
    models.be_deterministic()
    with track(CELLS, f"{task}/{method}/{seed}", {"task": task, "seed": seed, "method": method}) as run:
        log_inputs(run, params, base, task, seed, method)
        records = read_records(workspace.data_folder(task), block.split)
        judgement = read_judgement(workspace.data_folder(task))
        adapter = HeadAdapter.from_pretrained(where.artifacts / "adapter")
        model, tokenizer = models.load(base, device=models.best_device())
        with adapter.attach(model):
            predictions = scoring.predict(
                model,
                tokenizer,
                records,
                judgement,
                batch_size=block.batch_size,
                max_new_tokens=block.max_new_tokens,
            )
        scores = scoring.table(predictions, judgement)
        means = {name: round(sum(column) / len(column), 6) for name, column in scores.items()}
        write_jsonl(where.artifacts / "predictions.jsonl", (prediction.to_json() for prediction in predictions))
        scoring.write_scores(where.tables / "scores.csv", scores)
        write_json(where.metrics / "evaluate.json", {block.split: means})
        run.metrics({f"{block.split}/{name}": value for name, value in means.items()})
        log_upstream(run, task, seed, method)


def log_inputs(run: Tracker, params: config.Params, base: models.BaseModel, task: str, seed: int, method: str) -> None:
    """Parameters of every stage that made the cell, and tags that join it to code and data."""
    kind = params.methods[method].kind
    blocks = params.cell(task, method).model_dump()
    if kind == "base":
        blocks = {stage: blocks[stage] for stage in ("kind", "fetch_data", "preprocess", "evaluate")}
    cell = {"task": task, "seed": seed, "method": method, "method.kind": kind}
    model = params.model.model_dump() | {"revision": base.revision}
    run.params({**cell, **flatten({"model": model, **blocks})})
    data = workspace.data_folder(task)
    files = {
        "md5.scales": workspace.place(task, seed).artifacts / "scales.safetensors",
        "md5.adapter": workspace.place(task, seed, method).artifacts / "adapter" / WEIGHTS_FILE,
        **{f"md5.{split}": data / f"{split}.jsonl" for split in SPLITS},
    }
    run.tags({name: md5(file.read_bytes()).hexdigest() for name, file in files.items()})


def log_upstream(run: Tracker, task: str, seed: int, method: str) -> None:
    """Results of the stages before this one, read from their files: they may have run long ago, or elsewhere."""
    where, shared = workspace.place(task, seed, method), workspace.place(task, seed)
    heads = read_heads(where.tables / "heads.csv")
    for stage, home in (("train_scales", shared), ("tune_bias", where)) if heads else ():
        figures = read_json(home.metrics / f"{stage}.json")
        run.metrics({f"{stage}/{name}": value for name, value in figures.items()})
        for row in read_history(home.artifacts / f"{stage}.csv"):
            run.metrics({f"{stage}/loss": row["loss"]}, step=int(row["step"]))
    run.metrics({"trained_parameters": read_json(where.metrics / "tune_bias.json")["trained_parameters"]})
    run.artifact(where.artifacts / "adapter", "adapter")
    run.artifact(where.tables / "heads.csv")
    run.artifact(where.artifacts / "predictions.jsonl")
    if heads and run.active:
        from lofit.figures import heat_maps

        norms = read_norms(shared.tables / "scale_norms.csv")
        run.figure(heat_maps([(f"{task}, {method}, seed {seed}", norms, heads)]), "heads.png")


if __name__ == "__main__":
    workspace.main(evaluate)
