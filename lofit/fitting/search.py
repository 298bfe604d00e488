"""The search of a small grid of settings on validation records: the best score wins, ties go to the lower loss."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lofit.adapters.base import Adapter
from lofit.errors import LofitError
from lofit.fitting.context import Scoring
from lofit.fitting.grid import Candidate
from lofit.scoring.metrics import means
from lofit.scoring.predict import predict, score_table
from lofit.settings import Settings
from lofit.storage.files import read_json, write_json
from lofit.training.checkpoint import fingerprint
from lofit.training.loop import Progress
from lofit.training.subject import Subject, describe, sample


@dataclass(frozen=True)
class Trial:
    """One configuration, and what it reached on the validation records."""

    settings: dict[str, Any]
    """The searched keys and their values."""

    score: float
    """The mean of the task's first metric."""

    loss: float
    """The task's own loss."""


def search(
    subject: Subject,
    points: Sequence[Candidate],
    fit: Callable[[Subject, Any], Adapter],
    scoring: Scoring,
) -> tuple[Adapter, Settings]:
    """Fit every candidate and keep the best by the first metric on the validation records.

    `subject.progress` then tells of the one that was chosen, and `subject.progress.trials` of all. In the subject's
    checkpoint folder every run of training and every score is kept by what decides it, so a larger grid, or another
    search there, computes only what is new.

    Raises:
        LofitError: there are no validation records; or every candidate fails, each of them in words.
    """
    if not subject.val:
        raise LofitError("tune: got a grid, but no validation records (val); expected some to choose by")
    subject.score_reference()
    began, outer = time.monotonic(), subject.progress
    best: tuple[tuple[float, float], Adapter, Settings, Progress] | None = None
    trials: list[Trial] = []
    failures: list[str] = []
    for number, (point, settings) in enumerate(points, 1):
        title = f"{outer.name or subject.title}, trial {number} of {len(points)}"
        part = replace(subject, progress=Progress(name=title), keeps_runs=True)
        try:
            adapter = fit(part, settings)
        except LofitError as error:
            # A rate that diverges is a bad candidate, no end of the search.
            failures.append(f"{described(point)}: {error}")
            tqdm.write(f"{title}: {failures[-1]}")
            trials.append(Trial(point, -math.inf, math.inf))
            continue
        trial = Trial(point, *scores_on_val(part, adapter, settings, scoring))
        tqdm.write(f"{title}: {described(point)}: {trial.score:.4f}, loss {trial.loss:.4f}")
        trials.append(trial)
        part.progress.val_loss = trial.loss
        rank = (trial.score, -trial.loss)
        if best is None or rank > best[0]:
            best = rank, adapter, settings, part.progress
    if best is None:
        raise LofitError("\n".join(failures))
    _, adapter, settings, progress = best
    outer.adopt(progress)
    outer.search_seconds = time.monotonic() - began
    outer.trials = [asdict(trial) for trial in trials]
    return adapter, settings


def scores_on_val(subject: Subject, adapter: Adapter, settings: Settings, scoring: Scoring) -> tuple[float, float]:
    """The mean of the first metric and the task's loss on the validation records; kept where the subject keeps runs."""
    facts = (describe(adapter), adapter.facts(), asdict(scoring), sample(subject.model), list(map(repr, subject.val)))
    loss_settings = subject.loss_settings(settings).model_dump()
    name = fingerprint(*facts, loss_settings, *adapter.tensors().values())
    file = subject.checkpoint and Path(subject.checkpoint) / "scores" / f"{name}.json"
    if file and file.exists():
        known = read_json(file)
        return known["score"], known["loss"]
    adapter.to(subject.model.device)
    with adapter.attach(subject.model, subject.layout):
        predictions = predict(
            subject.model,
            subject.tokenizer,
            subject.val,
            scoring.metric,
            batch_size=scoring.batch_size,
            max_new_tokens=scoring.max_new_tokens,
            reading=adapter.reader,
        )
    score = next(iter(means({(1, 0): score_table(predictions, scoring.metric)}).values()))
    loss = round(subject.loss_on_val(adapter, settings), 6)
    if file:
        write_json(file, {"score": score, "loss": loss})
    return score, loss


def described(point: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in point.items())
