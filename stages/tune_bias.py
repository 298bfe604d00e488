"""Stage tune_bias: step 2, an offset vector for each selected head; writes the adapter."""

from hashlib import sha256
from pathlib import Path

from lofit import blocks
from lofit.adapter_folder import WEIGHTS_FILE, write_adapter
from lofit.files import read_json, write_json
from lofit.heads import HeadLayout
from lofit.history import write_history
from lofit.provenance import Provenance
from lofit.selection import read_heads
from stages import workspace


def tune_bias(task: workspace.Task, seed: workspace.Seed, method: workspace.Method) -> None:
    params = workspace.read_params()
    block = params.cell(task, method).tune_bias
    where = workspace.place(task, seed, method)
    heads = read_heads(where.tables / "heads.csv")

    def source(fold: int) -> Provenance:
        return provenance(block if heads else None, task, seed, method, fold)

    if not heads:
        for fold in params.task(task).preprocess.folds:
            write_adapter(workspace.adapter_folder(where, fold), [], {}, source(fold))
        write_history(where.artifacts / "tune_bias.csv", [])
        write_json(where.metrics / "tune_bias.json", {"steps": 0, "trained_parameters": 0})
        return

    workspace.share_work("tune_bias")
    with workspace.training_run("tune_bias", task, seed, method) as run:
        # A method without heads has nothing to train and should not wait for torch to load.
        from lofit.adapter import HeadAdapter
        from lofit.kept_prefix import Room
        from lofit.training import fresh_vectors
        from stages.vectors import train_vectors

        def make(layout: HeadLayout, fold: int) -> HeadAdapter:
            offsets = fresh_vectors(len(heads[fold]), layout.head_dim, seed=seed)
            return HeadAdapter(heads[fold], offsets=offsets, provenance=source(fold))

        def write(adapters: dict[int, HeadAdapter]) -> list[Path]:
            for fold, adapter in adapters.items():
                adapter.save_pretrained(workspace.adapter_folder(where, fold))
            return [workspace.adapter_folder(where, fold) / WEIGHTS_FILE for fold in adapters]

        room = Room(block.prefix_memory_gb, workspace.scratch_folder()) if block.keep_prefix else None
        train_vectors("tune_bias", (task, seed, method), run, block, make, write, room=room)


def provenance(block: blocks.TuneBias | None, task: str, seed: int, method: str, fold: int) -> Provenance:
    """What the adapter's folder says of its making; without `block`, nothing was trained."""
    base = read_json(workspace.BASE_MODEL)
    data = (workspace.data_folder(task) / "train.jsonl").read_bytes()
    training = {
        **{"task": task, "method": method, "seed": seed, "fold": fold},
        "data_sha256": sha256(data).hexdigest(),
        "parameters": block.model_dump() if block else {},
    }
    return Provenance.of(base["source"], base["revision"], HeadLayout.from_json(base["layout"]), training=training)


if __name__ == "__main__":
    workspace.main(tune_bias)
