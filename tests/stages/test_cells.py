"""A report of an unfinished run: of each task the rows that are evaluated with every seed, and no others."""

import pytest

from lofit.errors import LofitError
from stages import paths
from stages.cells import with_rows

SETTINGS = {
    "tasks": {"mquake": {"split": "test"}, "clutrr": {"split": "test"}},
    "rows": ["base", "lofit"],
    "seeds": [1, 2],
}


@pytest.fixture
def evaluated(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(*cells):
        for cell in cells:
            file = paths.scores_file(*cell)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()

    return write


def test_so_far_are_the_rows_that_every_seed_has_evaluated(evaluated):
    evaluated(("mquake", 1, "base"), ("mquake", 2, "base"), ("mquake", 1, "lofit"))
    found = with_rows(SETTINGS, so_far=True)
    assert found["rows_of"]["mquake"] == ["base"] and list(found["tasks"]) == ["mquake"]
    assert found["seeds"] == [1, 2]


def test_a_finished_run_has_all_its_rows(evaluated):
    found = with_rows(SETTINGS, so_far=False)
    assert found["rows_of"] == {"mquake": ["base", "lofit"], "clutrr": ["base", "lofit"]}
    assert found["tasks"] == SETTINGS["tasks"]


def test_where_nothing_is_evaluated_it_says_so(evaluated):
    evaluated(("mquake", 1, "base"))
    with pytest.raises(LofitError, match="got no row that is evaluated"):
        with_rows(SETTINGS, so_far=True)
