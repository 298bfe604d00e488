"""The table of a search: which settings were tried, and what they reached on the validation split."""

import csv
import json
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from lofit.storage.files import write_whole
from lofit.storage.tables import Part

COLUMNS = ("draw", "fold", "settings", "score", "loss")


def write_trials(file: Path, parts: Mapping[Part, Sequence[Mapping[str, Any]]]) -> None:
    """Save the trials of each part, in the order in which they were made: `settings` (JSON), `score`, `loss`."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for (draw, fold), trials in parts.items():
        for trial in trials:
            writer.writerow((draw, fold, json.dumps(trial["settings"]), trial["score"], trial["loss"]))
    write_whole(file, text.getvalue())


def read_trials(file: Path) -> dict[Part, list[dict[str, Any]]]:
    """What `write_trials` wrote; a part without trials is left out."""
    parts: dict[Part, list[dict[str, Any]]] = {}
    with file.open(newline="", encoding="utf-8") as opened:
        for row in csv.DictReader(opened):
            trial = {"settings": json.loads(row["settings"]), "score": float(row["score"]), "loss": float(row["loss"])}
            parts.setdefault((int(row["draw"]), int(row["fold"])), []).append(trial)
    return parts


def best_trial(trials: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The one that a search takes: of the highest score, then of the lowest loss, then the first."""
    return max(trials, key=lambda trial: (trial["score"], -trial["loss"]))
