"""Stage check: refuse a faulty params.yaml before any other stage runs."""

from pathlib import Path

from lofit.errors import LofitError
from lofit.files import write_whole
from stages import workspace


def check() -> None:
    params = workspace.read_params()
    sources = {task: params.tasks[task].fetch_data.source for task in params.run.tasks}
    faults = [
        f"{workspace.PARAMS}: tasks.{task}.fetch_data.source: met {source!r}, which is no folder; "
        "allowed: demo, or a folder below data/"
        for task, source in sources.items()
        if source != "demo" and not Path(source).is_dir()
    ]
    if faults:
        raise LofitError("\n".join(faults))
    write_whole(workspace.ARTIFACTS / "checked.txt", "params.yaml is valid\n")


if __name__ == "__main__":
    workspace.main(check)
