"""The command that writes presets: what it prints, writes and refuses."""

import shutil
import subprocess
from pathlib import Path

import pytest

from stages.command import main
from stages.params.load import load
from stages.preset import preset

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def command(capsys, monkeypatch):
    """Run the command and return what it printed; with `fails`, the faults that it printed."""

    def run(*arguments, fails=False):
        with pytest.raises(SystemExit) as ended:
            monkeypatch.setattr("sys.argv", ["preset", *map(str, arguments)])
            main(preset)
        if not fails:
            assert ended.value.code in (0, None)
            return capsys.readouterr().out
        assert isinstance(ended.value.code, str), capsys.readouterr().err
        faults = ended.value.code.splitlines()
        assert faults and all(line.startswith("error: ") for line in faults)
        return ended.value.code

    return run


@pytest.fixture
def project():
    """params.yaml and two presets in the current folder; returns the text of the former."""
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    Path("presets").mkdir()
    Path("presets/short.yaml").write_text("# Fewer epochs.\n# For a first look.\nrun:\n  seeds: [1, 2]\n")
    Path("presets/bad.yaml").write_text("model:\n  dtype: float8\n")
    return Path("params.yaml").read_text()


def test_preset_writes_what_differs_and_says_so(command, project):
    before = load(Path("params.yaml")).run.seeds
    assert before != [1, 2]
    printed = command("short")
    undo = "`git diff params.yaml` shows it, `git checkout params.yaml` undoes it."
    assert printed == f"run.seeds: {before} -> [1, 2]\n\n{undo}\n"
    assert load(Path("params.yaml")).run.seeds == [1, 2]
    assert command("presets/short.yaml") == "params.yaml says so already\n"


def test_a_preset_is_not_mixed_with_uncommitted_changes_unasked(command, project):
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for arguments in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", "start"]):
        subprocess.run(["git", *arguments], check=True)
    command("short")
    before = Path("params.yaml").read_bytes()
    fault = command("short", fails=True)
    assert fault.startswith("error: params.yaml: got changes that are not committed") and "--on-top" in fault
    assert Path("params.yaml").read_bytes() == before
    assert command("short", "--on-top") == "params.yaml says so already\n"


def test_preset_changes_another_file_on_request(command, project):
    Path("params.yaml").rename("other.yaml")
    assert "git checkout other.yaml" in command("short", "--params", "other.yaml")
    assert "params.yaml: No such file" in command("short", fails=True)


def test_presets_are_listed_with_their_first_line(command, project):
    rows = table(command())
    assert rows["short"] == ["Fewer epochs."]
    assert "bad" in rows


def test_a_preset_that_would_not_be_valid_is_not_written(command, project):
    assert "model.dtype: got 'float8'" in command("bad", fails=True)
    assert Path("params.yaml").read_text() == project


def test_a_preset_that_there_is_not(command, project):
    assert command("shrot", fails=True) == "error: preset: got 'shrot'; expected bad, short, or a file"
    shutil.rmtree("presets")
    assert "run from the project's root" in command(fails=True)


# ----------------------------------------------------------------------------------------------------------- helpers


def table(printed):
    """The columns of each printed line, parted by three blanks, by the first of them."""
    rows = ([part.strip() for part in line.split("   ") if part.strip()] for line in printed.splitlines())
    return {row[0]: row[1:] for row in rows if row}
