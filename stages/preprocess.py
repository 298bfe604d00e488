"""Stage preprocess: published files to records, the one format of every later stage."""

from lofit import tasks
from lofit.storage.files import write_json
from lofit.tasks.prompts import Reader
from lofit.tasks.record import Options
from stages import paths
from stages.command import Run, Task, main
from stages.keys import keys_of
from stages.plan import read_plan


def preprocess(task: Task, run: Run) -> None:
    plan = read_plan("preprocess", task)
    options = Options.of(plan["settings"])
    with keys_of(f"tasks.{task}.preprocess", Options):
        counts = tasks.preprocess(
            plan["kind"],
            paths.raw_folder(task),
            paths.data_folder(task),
            options,
            reader=lambda: make_reader(options, plan["limits"] or {}),
        )
    write_json(paths.metrics_folder(run, task) / "preprocess.json", counts)


def make_reader(options: Options, limits: dict[str, int]) -> Reader:
    """The model's tokenizer, and what an example has to fit into."""
    # Most tasks need neither, and would wait seconds for these imports.
    from lofit.models.base import load_tokenizer
    from stages.model import read_base

    base = read_base()
    return Reader(
        load_tokenizer(base.source, revision=base.commit),
        options.chat_options,
        positions=base.vocabulary.positions,
        **limits,
    )


if __name__ == "__main__":
    main(preprocess)
