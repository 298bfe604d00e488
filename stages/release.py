"""Adapters to be shared: copies with their scores in the model cards."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lofit.adapters.kinds import load_adapter
from lofit.scoring.metrics import means
from lofit.storage.tables import Part
from stages import paths


def write_release(
    out: Path, scores: Mapping[Part, Mapping[str, Sequence[float]]], split: str, task: str, seed: int, row: str
) -> None:
    """Copy a row's adapters into `out`, with model cards that hold their scores."""
    for part, name in paths.part_names(list(scores)).items():
        adapter = load_adapter(paths.adapter_folder(task, seed, row) / name)
        adapter.provenance = adapter.provenance.with_metrics(named(means({part: scores[part]}), split))
        adapter.save_pretrained(out / name)


def named(scores: Mapping[str, float], split: str) -> dict[str, float]:
    """Scores by the names that they have in MLflow and in model cards."""
    return {f"{split}/{name}": value for name, value in scores.items()}
