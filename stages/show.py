"""Not a stage: print the results table, and how to open the MLflow UI."""

import os

from lofit.errors import LofitError
from stages import paths
from stages.command import main
from stages.params.yaml_file import read_yaml
from stages.tracking import ui_link


def show() -> None:
    run = (read_yaml(paths.PARAMS) or {}).get("run", {}).get("name", "demo")
    summary = paths.reports_folder(run) / "summary.md"
    if not summary.exists():
        raise LofitError(f"{summary}: no such file; run `dvc repro` first")
    primary = summary.read_text(encoding="utf-8").split("\n# ")[1 - 1]
    shown = [line.removeprefix("## ") for line in primary.splitlines() if line.startswith(("|", "## ")) or not line]
    print("\n".join(shown).strip())
    if server := os.environ.get("MLFLOW_TRACKING_URI"):
        print(f"\nAll runs: the experiments lofit and lofit-training on {server}")
    elif link := ui_link():
        print(f"\nAll runs in the MLflow UI: make ui, then open {link}")


if __name__ == "__main__":
    main(show)
