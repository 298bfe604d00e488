"""How a model does on tasks that it was not tuned on, by lm-evaluation-harness.

LoFiT's Table 5 asks so whether tuning for one task costs what a model could do before. Prompts, answers and metrics
are those of lm-eval's tasks, so that scores compare with those that others have published for the same version.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lofit.adapters.base import Adapter
from lofit.errors import LofitError
from lofit.models.layout import HeadLayout
from lofit.models.runtime import check_model, deterministic, frozen, refuse_nan
from lofit.scoring import harness
from lofit.scoring.harness import FEWSHOT_SEED, Harness, chosen, quiet, seeded
from lofit.scoring.harness_model import harness_model
from lofit.storage.question_scores import QuestionScores
from lofit.tasks.question_files import FOLDER


def out_of_domain(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[str],
    *,
    adapter: Adapter | None = None,
    limit: int | None = None,
    num_fewshot: int | None = None,
    batch_size: int = 16,
    files: str | Path = FOLDER,
    folder: str | Path | None = None,
    cache: Path | None = None,
) -> dict[str, QuestionScores]:
    """Ask a model the questions of other tasks, as it is or with an adapter.

    Args:
        tasks: names that lm-eval knows, of those that come with lofit (`lofit.tasks.question_files.FILES`), or of
            `folder`. A group, such as `mmlu`, is scored over all questions of its tasks together.
        adapter: attached for the length of the call.
        limit: the most questions of a task, the first ones; those of `mmlu_val_local` come at equal steps over all
            subjects. Of a group, the most of each of its tasks.
        num_fewshot: examples before each question; None for what each task says, which mostly is none.
        files: where the files of the tasks lie that come with lofit.
        folder: lm-eval YAML files of one's own.
        cache: where questions are kept that a task downloads; None for where `datasets` keeps them.

    Returns:
        By task and metric, a score for each question. Metrics that are no mean over questions are left out.

    Raises:
        LofitError: lm-eval is missing, a task is not known or has no such metric, or the model gives NaN.
    """
    check_model(model, tokenizer)
    for name, value in (("limit", limit), ("batch_size", batch_size)):
        if value is not None and (type(value) is not int or value < 1):
            raise LofitError(f"{name}: got {value!r}; expected a whole number from 1")
    loaded = harness.load(tasks, num_fewshot=num_fewshot, files=files, folder=folder, cache=cache)
    return ask(model, tokenizer, loaded, adapter=adapter, limit=limit, batch_size=batch_size)


def ask(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    loaded: Harness,
    *,
    adapter: Adapter | None = None,
    layout: HeadLayout | None = None,
    limit: int | None = None,
    batch_size: int = 16,
) -> dict[str, QuestionScores]:
    """What `out_of_domain` does with tasks that are loaded; they can be asked again."""
    from lm_eval.evaluator import evaluate

    taken = {name: chosen(task, limit) for name, task in loaded.tasks.items()}
    # lm-eval looks each question up in the list of those to take.
    some = {name: few for name, few in taken.items() if len(few) < len(loaded.tasks[name].eval_docs)}
    reading = adapter.reader if adapter else None
    with ExitStack() as stack:
        for context in (quiet(), seeded(), frozen(model), deterministic()):
            stack.enter_context(context)
        if adapter is not None:
            stack.enter_context(adapter.to(model.device).attach(model, layout))
        handle = model.register_forward_hook(lambda _, __, output: refuse_nan(output.logits))
        stack.callback(handle.remove)
        for task in loaded.tasks.values():
            # Examples are drawn as questions come.
            task.set_fewshot_seed(seed=FEWSHOT_SEED)
        answers = evaluate(
            lm=harness_model(model, tokenizer, batch_size=batch_size, reading=reading),
            task_dict={"tasks": loaded.tasks, "groups": {}, "group_map": {}},
            samples=some,
            bootstrap_iters=0,
            log_samples=True,
        )
    scores = {name: scores_of(name, task, answers["samples"][name]) for name, task in loaded.tasks.items()}
    return {
        name: together(name, [(member, scores[member]) for member in members])
        for name, members in loaded.members.items()
    }


def scores_of(name: str, task: Any, samples: Sequence[dict[str, Any]]) -> QuestionScores:
    """What lm-eval says of each question, for the metrics that are a mean over questions."""
    from lm_eval.api.metrics import mean

    means = [metric for metric, aggregate in task.aggregation().items() if aggregate is mean]
    filters = list(dict.fromkeys(sample["filter"] for sample in samples))
    scores: dict[str, np.ndarray] = {}
    questions: dict[int, None] = {}
    for which in filters:
        rows = [sample for sample in samples if sample["filter"] == which]
        questions |= dict.fromkeys(row["doc_id"] for row in rows)
        for metric in means:
            if all(metric in row for row in rows):
                label = metric if len(filters) == 1 else f"{metric} ({which})"
                scores[label] = np.array([float(row[metric]) for row in rows])
    if not scores:
        known = ", ".join(task.aggregation())
        raise LofitError(f"task {name}: got the metrics {known}; expected one that is a mean over questions")
    return QuestionScores(tuple(map(str, questions)), scores)


def together(name: str, members: Sequence[tuple[str, QuestionScores]]) -> QuestionScores:
    """The questions of a group's tasks as those of one task, by the metrics that all of them have."""
    if [member for member, _ in members] == [name]:
        return members[0][1]
    metrics = [metric for metric in members[0][1].scores if all(metric in reached.scores for _, reached in members)]
    if not metrics:
        raise LofitError(f"task {name}: its tasks share no metric; expected their names one by one")
    questions = tuple(f"{member}:{question}" for member, reached in members for question in reached.questions)
    return QuestionScores(
        questions, {metric: np.concatenate([reached.scores[metric] for _, reached in members]) for metric in metrics}
    )
