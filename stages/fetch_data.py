"""Stage fetch_data: bring a task's files together in one folder."""

import shutil
from pathlib import Path

from lofit.errors import LofitError
from lofit.storage.files import write_json
from lofit.tasks import download, user_data
from lofit.tasks.record import Source
from lofit.tasks.source import ORIGIN
from stages import paths
from stages.command import Task, main
from stages.keys import keys_of
from stages.plan import read_plan


def fetch_data(task: Task) -> None:
    plan = read_plan("fetch_data", task)
    source, out = plan["settings"]["source"], paths.raw_folder(task)
    # Outside the stage's outs, which DVC empties first: what was downloaded before a break is not fetched again.
    cache = paths.cache_folder() / "data"
    if plan["kind"] == "jsonl":
        where = {key: plan["settings"][key] for key in ("revision", "subset", "splits")}
        with keys_of(f"tasks.{task}.fetch_data", Source):
            user_data.fetch(source, out, cache=cache, **where)
    elif source == "public":
        download.fetch(plan["kind"], out, cache=cache)
    else:
        copy_files(paths.DEMO / "data" / plan["kind"] if source == "demo" else Path(source), out, task)


def copy_files(folder: Path, out: Path, task: str) -> None:
    """Copy the files of a folder, not those of folders in it."""
    if not folder.is_dir():
        key = f"tasks.{task}.fetch_data.source"
        raise LofitError(f"{folder}: no such folder; expected in {key}: demo, public, or a folder")
    out.mkdir(parents=True, exist_ok=True)
    files = sorted(path for path in folder.iterdir() if path.is_file())
    for file in files:
        shutil.copyfile(file, out / file.name)
    write_json(out / ORIGIN, {file.name: str(file) for file in files})


if __name__ == "__main__":
    main(fetch_data)
