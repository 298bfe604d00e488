"""Stage fetch_data: bring a task's published files together in one folder."""

import shutil
from pathlib import Path

from lofit.errors import LofitError
from stages import workspace


def fetch_data(task: workspace.Task) -> None:
    params = workspace.read_params()
    block = params.task(task)
    source = block.fetch_data.source
    key = f"{workspace.PARAMS}: tasks.{task}.fetch_data.source"
    if source == "demo":
        if params.model.name != "demo":
            raise LofitError(f"{key}: met 'demo'; allowed: a folder, since model.name is {params.model.name!r}")
        folder = workspace.DEMO / "data" / block.kind
    else:
        folder = Path(source)
        if not folder.is_dir():
            raise LofitError(f"{key}: met {source!r}, which is no folder; allowed: demo, or a folder below data/")
    out = workspace.raw_folder(task)
    out.mkdir(parents=True, exist_ok=True)
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        shutil.copyfile(file, out / file.name)


if __name__ == "__main__":
    workspace.main(fetch_data)
