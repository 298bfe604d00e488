"""Stage tune_bias: step 2, an offset vector for each selected head; writes the adapter."""

from pathlib import Path

from lofit.adapter import WEIGHTS_FILE, HeadAdapter
from lofit.files import read_json, write_json
from lofit.heads import HeadLayout
from lofit.training import fresh_vectors
from stages import workspace
from stages.vectors import train_vectors, write_history


def tune_bias(task: workspace.Task, seed: workspace.Seed, method: workspace.Method) -> None:
    params = workspace.read_params()
    settings = params.cell(task, method).tune_bias
    where = workspace.place(task, seed, method)
    heads = [(row["layer"], row["head"]) for row in read_json(where.artifacts / "heads.json")]
    facts = {"base_model": params.model.name, "task": task, "seed": seed, "method": method}

    def make(layout: HeadLayout) -> HeadAdapter:
        return HeadAdapter(heads, offsets=fresh_vectors(len(heads), layout.head_dim, seed=seed))

    def write(adapter: HeadAdapter) -> Path:
        adapter.save_pretrained(where.artifacts / "adapter", **facts)
        return where.artifacts / "adapter" / WEIGHTS_FILE

    if heads:
        train_vectors("tune_bias", (task, seed, method), settings, make, write)
    else:
        write(HeadAdapter([]))
        write_history(where.artifacts / "tune_bias.csv", [])
        write_json(where.metrics / "tune_bias.json", {"steps": 0, "trained_parameters": 0})


if __name__ == "__main__":
    workspace.main(tune_bias)
