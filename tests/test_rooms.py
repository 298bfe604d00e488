"""The contracts between rooms in pyproject.toml: they hold, and each would notice."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINT = "from importlinter.cli import lint_imports_command; lint_imports_command(['--no-cache', '--no-logo'])"


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    # Nothing but `folder`: by default the lofit that the tests run with would be found, too.
    env = {**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "120"}
    return subprocess.run(
        [sys.executable, "-c", LINT], cwd=folder, env=env, capture_output=True, text=True, check=False
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for package in ("lofit", "stages"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_contracts_hold():
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("lofit/models/layout.py", "import lofit.training.loop", "Arrows between the rooms of lofit run one way"),
        ("lofit/rankings/listed.py", "def late():\n    import lofit.methods", "Arrows between the rooms"),
        ("lofit/attic/__init__.py", "", "Arrows between the rooms"),
        ("lofit/methods/lofit.py", "import lofit.methods.none", "Methods know nothing of each other"),
        ("lofit/scoring/score.py", "import mlflow", "The library knows neither the stages nor their tools"),
        ("lofit/report/table.py", "import stages.paths", "The library knows neither the stages nor their tools"),
        ("lofit/cli/inspect.py", "import lofit.demo", "The library knows nothing of its demo"),
        ("lofit/tasks/plain.py", "from lofit import fit", "The public names are for callers alone"),
        ("lofit/training/case.py", "import lofit.training.subject", "No circles"),
    ],
)
def test_an_arrow_the_wrong_way_is_noticed(copy: Path, file: str, line: str, contract: str):
    (copy / file).parent.mkdir(exist_ok=True)
    with (copy / file).open("a") as opened:
        opened.write(f"\n{line}\n")
    done = lint(copy)
    assert done.returncode == 1
    broken = [verdict for verdict in done.stdout.splitlines() if verdict.endswith(" BROKEN")]
    assert any(verdict.startswith(contract) for verdict in broken), done.stdout
