"""Folders that appear whole or not at all."""

import pytest

from lofit.errors import LofitError
from lofit.storage.files import json_text, whole_folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def fill(folder, text="new"):
    (folder / "file").write_text(text)


def test_a_folder_appears_when_it_is_complete(tmp_path):
    out = tmp_path / "deep" / "out"
    with whole_folder(out) as folder:
        fill(folder)
        assert not out.exists()
    assert (out / "file").read_text() == "new" and names(out.parent) == ["out"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_what_was_there_stays_where_the_block_fails(tmp_path, error):
    fill(tmp_path, "old")
    (tmp_path / "out").mkdir()
    fill(tmp_path / "out", "old")
    with pytest.raises(error), whole_folder(tmp_path / "out", force=True) as folder:
        fill(folder)
        raise error
    assert (tmp_path / "out" / "file").read_text() == "old" and names(tmp_path) == ["file", "out"]


def test_force_replaces_the_folder(tmp_path):
    (tmp_path / "out").mkdir()
    fill(tmp_path / "out", "old")
    with whole_folder(tmp_path / "out", force=True) as folder:
        fill(folder)
    assert (tmp_path / "out" / "file").read_text() == "new" and names(tmp_path) == ["out"]


def test_what_arrives_meanwhile_stays(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(LofitError, match="out: got a folder that is not empty"), whole_folder(out) as folder:
        fill(folder)
        out.mkdir()
        fill(out, "somebody's")
    assert (out / "file").read_text() == "somebody's" and names(tmp_path) == ["out"]


def test_what_was_there_comes_back_where_the_move_fails(tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    fill(out, "old")
    rename = type(out).rename

    def fails(self, target):
        if (self / "file").exists() and (self / "file").read_text() == "new":
            raise OSError("disk")
        return rename(self, target)

    monkeypatch.setattr(type(out), "rename", fails)
    with pytest.raises(OSError, match="disk"), whole_folder(out, force=True) as folder:
        fill(folder)
    assert (out / "file").read_text() == "old"


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, object()])
def test_what_json_cannot_hold_is_refused(value):
    with pytest.raises(LofitError, match="got a value that JSON cannot hold"):
        json_text({"key": value})
