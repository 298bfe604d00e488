"""Not a stage: print the results table, and how to open the MLflow UI."""

import os

from lofit.errors import LofitError
from lofit.tracking import ui_link
from stages import workspace


def show() -> None:
    summary = workspace.REPORTS / "summary.md"
    if not summary.exists():
        raise LofitError(f"{summary}: no such file; run `dvc repro` first")
    print("\n".join(line for line in summary.read_text(encoding="utf-8").splitlines() if line.startswith("|")))
    if server := os.environ.get("MLFLOW_TRACKING_URI"):
        print(f"\nAll runs: the experiments lofit and lofit-training on {server}")
    elif link := ui_link():
        print(f"\nAll runs in the MLflow UI: make ui, then open {link}")


if __name__ == "__main__":
    workspace.main(show)
