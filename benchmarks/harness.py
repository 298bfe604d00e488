"""TruthfulQA's MC1 and MC2 beside lm-eval: same model, questions, prompts and answers, each with its own batches."""

import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.measure import Result, Series, Setting, Variant, quiet
from lofit.scoring.predict import predict_choices
from lofit.tasks.record import Metric, Record

BATCH = 16
"""Answers in one pass; lm-eval's own default is 1."""

TASKS = ("truthfulqa_mc1", "truthfulqa_mc2")
MISSING = "lm-eval is not installed, so lofit is compared with nothing here: pip install -e '.[out-of-domain]'"

Tasks = dict[str, Any]
"""lm-eval's tasks with their requests, by name."""


def ours(setting: Setting, records: Sequence[Record], scores: dict[str, str]) -> Result:
    """From texts to MC1 and MC2 as `lofit` scores a task."""
    metric = Metric("multiple_choice", "clean_six_shot")
    predictions = predict_choices(setting.model, setting.texts.tokenizer, records, metric, batch_size=BATCH)
    logprobs = [[*prediction.evidence["correct"], *prediction.evidence["incorrect"]] for prediction in predictions]
    own = [[prediction.scores[name] for prediction in predictions] for name in ("mc1", "mc2")]
    return result("lofit", logprobs, own[0], own[1], scores)


def result(
    name: str, logprobs: Sequence[Sequence[float]], mc1: Sequence[float], mc2: Sequence[float], scores: dict[str, str]
) -> Result:
    means = [sum(values) / len(values) for values in (mc1, mc2)]
    scores[name] = "MC1 {:.4f}, MC2 {:.4f}".format(*means)
    return {
        "log-probabilities": torch.tensor(list(chain.from_iterable(logprobs)), dtype=torch.float64),
        "MC1 and MC2": torch.tensor(means, dtype=torch.float64),
    }


def tasks_of(records: Sequence[Record]) -> Tasks:
    """lm-eval's own two tasks, with these questions and answers in place of the hub's files, and their requests."""
    import lm_eval.tasks

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    pages = Path(lm_eval.tasks.__file__).parent / "truthfulqa"
    manager = lm_eval.tasks.TaskManager(include_defaults=False)
    loaded = {}
    with tempfile.TemporaryDirectory() as made:
        home = Path(made)
        lines = [json.dumps(document(record)) for record in records]
        (home / "questions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        for name in TASKS:
            page = {
                "include": str(pages / f"{name}.yaml"),
                "task": name,
                "dataset_path": "json",
                "dataset_name": None,
                "dataset_kwargs": {
                    "data_files": {"validation": str(home / "questions.jsonl")},
                    "cache_dir": str(home / "cache"),
                    "keep_in_memory": True,
                },
            }
            # JSON is YAML, which is what lm-eval reads.
            (home / f"{name}.yaml").write_text(json.dumps(page), encoding="utf-8")
            loaded[name] = manager.load([str(home / f"{name}.yaml")])["tasks"][name]
            loaded[name].build_all_requests()
    return loaded


def document(record: Record) -> dict:
    """A record in the columns of the hub's files: MC1 has the best answer first, then the false ones."""
    correct, incorrect = ([answer.strip() for answer in own] for own in (record.correct, record.incorrect))
    return {
        "question": record.id,
        "mc1_targets": targets(correct[:1], incorrect),
        "mc2_targets": targets(correct, incorrect),
    }


def targets(correct: Sequence[str], incorrect: Sequence[str]) -> dict:
    return {"choices": [*correct, *incorrect], "labels": [1] * len(correct) + [0] * len(incorrect)}


def theirs(lm: Any, tasks: Tasks, name: str, scores: dict[str, str]) -> Result:
    """The requests of both tasks at once, as lm-eval's evaluator hands them over, and its own scores of them."""
    requests = list(chain.from_iterable(task.instances for task in tasks.values()))
    answers = lm.loglikelihood(requests, disable_tqdm=True)
    by_task: dict[str, dict[int, list]] = {task: {} for task in tasks}
    for request, answer in zip(requests, answers, strict=True):
        by_task[request.task_name].setdefault(request.doc_id, []).append((request, answer))
    figures: dict[str, list[float]] = {}
    for task, documents in by_task.items():
        figures[task] = [
            float(tasks[task].process_results(pairs[0][0].doc, [answer for _, answer in pairs])["acc"])
            for pairs in documents.values()
        ]
    logprobs = [[answer[0] for _, answer in pairs] for pairs in by_task[TASKS[1]].values()]
    return result(name, logprobs, figures[TASKS[0]], figures[TASKS[1]], scores)


def longest(lm: Any, tasks: Tasks, count: int) -> None:
    """lm-eval's first batches, which hold the longest texts."""
    requests = sorted(tasks[TASKS[1]].instances, key=lambda request: -len("".join(request.args)))
    lm.loglikelihood(requests[:count], disable_tqdm=True)


def harness(setting: Setting, batch_size: int) -> Any:
    """lm-eval's model around the one that is here; the tokenizer is a copy, as it may add a padding token."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(
        pretrained=setting.model,
        tokenizer=setting.texts.with_end(),
        backend="causal",
        batch_size=batch_size,
    )


def beside_lm_eval(setting: Setting) -> Iterator[Series]:
    """One table; without lm-eval, of lofit alone, and it says so."""
    records = setting.texts.six_shot[: setting.questions]
    answers = sum(len(record.correct) + len(record.incorrect) for record in records)
    scores: dict[str, str] = {}
    variants = [Variant("lofit", partial(ours, setting, records, scores), quiet)]
    note = (
        f"Questions: {setting.texts.source}, six examples before each, as in lm-eval's `truthfulqa_mc1` and "
        f"`truthfulqa_mc2`. From texts to scores. lofit: batches of {BATCH}. Difference: of the log-probabilities and "
        "of MC1 and MC2 from lofit's. Memory of lm-eval: of its longest batches."
    )
    if find_spec("lm_eval") is None:
        tqdm.write(MISSING)
        note = f"{note} {MISSING}"
    else:
        with quiet():
            tasks = tasks_of(records)
        for size in (BATCH, 1):
            name = f"lm-eval, batch_size {size}" + (", its default" if size == 1 else "")
            with quiet():
                lm = harness(setting, size)
            variants.append(
                Variant(
                    name,
                    partial(theirs, lm, tasks, name, scores),
                    quiet,
                    sample=partial(longest, lm, tasks, 2 * size),
                )
            )

    def found() -> str:
        return "Scores: " + "; ".join(f"{name}: {figures}" for name, figures in scores.items()) + "."

    yield Series("lm-eval", f"{answers} answers to {len(records)} questions", variants, note, found=found)
