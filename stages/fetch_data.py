"""Stage fetch_data: bring a task's published files together in one folder."""

import shutil
from pathlib import Path

from lofit.errors import LofitError
from stages import workspace


def fetch_data(task: workspace.Task) -> None:
    block = workspace.read_params().task(task)
    source = block.fetch_data.source
    folder = workspace.DEMO / "data" / block.kind if source == "demo" else Path(source)
    if not folder.is_dir():
        raise LofitError(f"{folder}: no such folder; allowed in tasks.{task}.fetch_data.source: demo, or a folder")
    out = workspace.raw_folder(task)
    out.mkdir(parents=True, exist_ok=True)
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        shutil.copyfile(file, out / file.name)


if __name__ == "__main__":
    workspace.main(fetch_data)
