"""The adapters that this repository brings can be read, and name a base that can be had."""

from pathlib import Path

import pytest

import lofit
from lofit.models.shipped import SHIPPED

ROOT = Path(__file__).parents[2]
FOLDERS = sorted(file.parent for file in (ROOT / "released").rglob("config.json"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: "/".join(folder.parts[-3:]))
def test_a_released_adapter_names_its_base_and_what_it_scored(folder):
    run, task, row = folder.parts[-3:]
    adapter = lofit.load_adapter(folder)
    made = adapter.provenance
    assert made.base_model == run and run in SHIPPED and len(made.base_revision) == 64
    assert (made.training["task"], made.training["method"]) == (task, row)
    assert made.metrics and not adapter.is_idle
    # In its card, and the same as in the report's table.
    summary = (ROOT / "reports" / run / "summary.csv").read_text()
    assert all(f",{value:.4f}," in summary for value in made.metrics.values())
