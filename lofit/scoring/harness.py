"""lm-evaluation-harness: its tasks, those that come with lofit, and those of a folder of one's own."""

import logging
import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lofit.errors import LofitError
from lofit.extras import extra
from lofit.tasks.question_files import FILES, FOLDER
from lofit.tasks.user_data import downloads_in, one_line

OWN = Path(__file__).parent / "lm_eval_tasks"
"""The tasks that come with lofit, as lm-eval's YAML."""

SPREAD = "spread"
"""What a task's `metadata.limit` says if a limit takes questions at equal steps, not the first ones."""

FEWSHOT_SEED = 1234
"""lm-eval's own."""


@dataclass(frozen=True)
class Harness:
    """Tasks that are ready to be asked."""

    members: dict[str, tuple[str, ...]]
    """By the name that was asked for, lm-eval's tasks: itself, or those of the group that it names."""

    tasks: dict[str, Any]
    """lm-eval's tasks by their names."""

    def total(self, name: str) -> int:
        """How many questions there are, whatever a limit leaves of them."""
        return sum(len(self.tasks[member].eval_docs) for member in self.members[name])


def check_installed() -> None:
    """A LofitError where lm-eval is missing."""
    with extra("out-of-domain", "evaluation out of domain needs"):
        import lm_eval  # noqa: F401


def load(
    names: Sequence[str],
    *,
    num_fewshot: int | None = None,
    files: str | Path = FOLDER,
    folder: str | Path | None = None,
    cache: Path | None = None,
) -> Harness:
    """The tasks called `names`, with their questions.

    Args:
        num_fewshot: examples before each question; None for what each task says, which mostly is none.
        files: where the files of the tasks lie that come with lofit.
        folder: lm-eval YAML files of one's own; a name in it comes before the same name elsewhere.
        cache: where questions are kept that a task downloads; None for where `datasets` keeps them.

    Raises:
        LofitError: a task is not known, its questions are not there, or it takes no examples.
    """
    manager = manager_of(names, files=files, folder=folder)
    if faults := faults_of(manager.task_index, names, num_fewshot):
        raise LofitError("\n".join(faults))
    members: dict[str, tuple[str, ...]] = {}
    tasks: dict[str, Any] = {}
    with quiet(), seeded(), kept_in(cache):
        for name in names:
            try:
                found = manager.load([name])["tasks"]
            except LofitError:
                raise
            except Exception as error:
                # Pages of lm-eval, and code of one's own, raise what they like.
                raise LofitError(f"task {name}: {one_line(error) or type(error).__name__}") from error
            members[name] = tuple(found)
            tasks |= found
    for name, task in tasks.items():
        set_examples(name, task, num_fewshot)
    return Harness(members, tasks)


def set_examples(name: str, task: Any, num_fewshot: int | None) -> None:
    """Have a task show this many examples, by lm-eval's own rules.

    Raises:
        LofitError: the task is one that shows none.
    """
    own = task.config.num_fewshot
    if num_fewshot and own == 0:
        raise LofitError(no_examples(name, num_fewshot))
    if num_fewshot is not None or own is None:
        task.set_config(key="num_fewshot", value=num_fewshot or 0)


def faults_of(known: Any, names: Sequence[str], num_fewshot: int | None = None) -> list[str]:
    """What is wrong with these names, a line each: nobody knows a task, or it shows no examples.

    `known` is what `known_tasks` says. The tasks of a group are known only once they are loaded.
    """
    faults = []
    for name in names:
        if name not in known:
            faults.append(f"tasks: got {name!r}; expected a task of lm-eval, of folder, or {', '.join(FILES)}")
        elif num_fewshot and (known[name].cfg or {}).get("num_fewshot") == 0:
            faults.append(no_examples(name, num_fewshot))
    return faults


def no_examples(name: str, num_fewshot: int) -> str:
    return f"num_fewshot: got {num_fewshot}; expected null or 0 for {name}, which shows no examples"


def known_tasks(names: Sequence[str], *, folder: str | Path | None = None) -> Any:
    """What lm-eval knows of tasks and groups, by their names: all that there are, or at least those of `names`.

    Raises:
        LofitError: lm-eval is missing.
    """
    return manager_of(names, folder=folder).task_index


def manager_of(names: Sequence[str], *, files: str | Path = FOLDER, folder: str | Path | None = None) -> Any:
    """lm-eval's index of tasks; of lm-eval's own, which take seconds to read, only where one is asked for."""
    check_installed()
    from lm_eval.tasks import TaskManager

    places = [OWN, *([Path(folder)] if folder else [])]
    options: dict[str, Any] = {"include_path": places, "metadata": {"files": str(files)}}
    with quiet():
        manager = TaskManager(include_defaults=False, **options)
        if all(stands_alone(name, manager.task_index) for name in names):
            return manager
        return TaskManager(**options)


def stands_alone(name: str, known: Any) -> bool:
    """Whether all that a name stands for is in an index: it may be a group, of which members stand elsewhere."""
    if name not in known:
        return False
    members = (known[name].cfg or {}).get("task") or []
    listed = members if isinstance(members, list) else []
    return all(isinstance(member, str) and stands_alone(member, known) for member in listed)


def chosen(task: Any, limit: int | None) -> list[int]:
    """Which of a task's questions a limit leaves, counted from 0: the first ones, or some at equal steps."""
    total = len(task.eval_docs)
    if limit is None or limit >= total:
        return list(range(total))
    spread = (task.config.metadata or {}).get("limit") == SPREAD
    return [number * total // limit for number in range(limit)] if spread else list(range(limit))


@contextmanager
def quiet() -> Iterator[None]:
    """Until the block ends, lm-eval logs faults only."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def seeded() -> Iterator[None]:
    """Until the block ends, random numbers begin with lm-eval's seeds; then they go on as if nothing had happened."""
    import numpy as np
    import torch

    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        random.seed(0)
        np.random.seed(FEWSHOT_SEED)
        torch.manual_seed(FEWSHOT_SEED)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


@contextmanager
def kept_in(cache: Path | None) -> Iterator[None]:
    """Until the block ends, what tasks download goes into `cache`."""
    if cache is None:
        yield
        return
    import datasets

    before = datasets.config.HF_DATASETS_CACHE
    with ExitStack() as stack:
        stack.enter_context(downloads_in(cache / "hub"))
        datasets.config.HF_DATASETS_CACHE = cache / "datasets"
        try:
            yield
        finally:
            datasets.config.HF_DATASETS_CACHE = before
