"""Downloading the published files: from a server on this machine, with files made here."""

import hashlib
import logging
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pooch
import pytest

from lofit.errors import LofitError
from lofit.tasks import download

DATA = Path(__file__).parents[3] / "shared" / "data"
FILES = {f"MQuAKE/{split}.jsonl": f'{{"split": "{split}"}}\n'.encode() * 5000 for split in ("train", "val", "test")}


class Source:
    """A server of `files`; `faults` lists, by file, what its next answers are instead: a status, "cut" or "lie"."""

    def __init__(self):
        self.files = dict(FILES)
        self.faults = {}
        self.requests = []
        source = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                name = self.path.removeprefix("/dataset/")
                source.requests.append(name)
                fault = source.faults[name].pop(0) if source.faults.get(name) else None
                if isinstance(fault, int) or name not in source.files:
                    self.send_error(fault or 404)
                    return
                content = b"changed" if fault == "lie" else source.files[name]
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2] if fault == "cut" else content)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/dataset"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def source(monkeypatch):
    """A source that the registry is made for, and no waiting between attempts."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
    monkeypatch.setitem(download.FILES, "mquake", hashes)
    source = Source()
    yield source
    source.close()


@pytest.fixture
def fetch(source, tmp_path):
    """Fetch from that source; `out` and `cache` are folders of the test."""

    def fetch(url=None):
        download.fetch("mquake", tmp_path / "out", cache=tmp_path / "cache", base_url=url or source.url)

    return fetch


def test_all_files_of_a_task_come_whole(fetch, source, tmp_path):
    fetch()
    assert contents(tmp_path / "out") == {name.removeprefix("MQuAKE/"): content for name, content in FILES.items()}
    assert sorted(source.requests) == sorted(FILES)


def test_nothing_is_fetched_twice(fetch, source, tmp_path):
    fetch()
    source.requests.clear()
    (tmp_path / "out" / "val.jsonl").unlink()
    fetch()
    assert source.requests == []
    assert (tmp_path / "out" / "val.jsonl").read_bytes() == FILES["MQuAKE/val.jsonl"]


def test_a_cached_file_that_was_spoilt_is_fetched_again(fetch, source, tmp_path):
    fetch()
    source.requests.clear()
    (tmp_path / "cache" / "MQuAKE" / "val.jsonl").write_bytes(FILES["MQuAKE/val.jsonl"][:100])
    fetch()
    assert source.requests == ["MQuAKE/val.jsonl"]
    assert (tmp_path / "out" / "val.jsonl").read_bytes() == FILES["MQuAKE/val.jsonl"]


@pytest.mark.parametrize("faults", [[503, 503], ["cut"], ["lie", 500]])
def test_a_passing_fault_is_tried_again(fetch, source, tmp_path, faults):
    source.faults["MQuAKE/val.jsonl"] = list(faults)
    fetch()
    assert Counter(source.requests)["MQuAKE/val.jsonl"] == len(faults) + 1
    assert contents(tmp_path / "out").keys() == {"train.jsonl", "val.jsonl", "test.jsonl"}


@pytest.mark.parametrize(
    ("fault", "met"),
    [(404, "HTTP 404"), (503, "HTTP 503"), ("cut", "ChunkedEncodingError"), ("off", "ConnectionError")],
)
def test_a_source_that_cannot_be_reached_is_one_line(fetch, source, tmp_path, fault, met):
    source.faults["MQuAKE/train.jsonl"] = [fault] * 100
    if fault == "off":
        source.close()
    with pytest.raises(LofitError) as refusal:
        fetch()
    assert str(refusal.value) == (
        f"{source.url}/MQuAKE/train.jsonl: got {met}; expected a network that reaches it, or a folder with these "
        "files, named as the source (see data/README.md)"
    )
    assert not (tmp_path / "out").exists() and not contents(tmp_path / "cache")
    assert len(source.requests) == (0 if fault == "off" else download.RETRIES + 1)


def test_a_file_that_changed_at_its_source_is_refused(fetch, source, tmp_path):
    source.files["MQuAKE/val.jsonl"] = b"changed"
    with pytest.raises(LofitError) as refusal:
        fetch()
    pinned, got = (hashlib.sha256(content).hexdigest() for content in (FILES["MQuAKE/val.jsonl"], b"changed"))
    assert str(refusal.value).startswith(
        f"{source.url}/MQuAKE/val.jsonl: changed at its source, got sha256 {got}; expected {pinned}, or a folder with"
    )
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "out").exists()
    assert contents(tmp_path / "cache").keys() == {"train.jsonl"}


@pytest.mark.parametrize("how", ["connection", "user"])
def test_an_interrupted_download_goes_on_where_it_stopped(fetch, source, tmp_path, monkeypatch, how):
    if how == "connection":
        source.faults["MQuAKE/val.jsonl"] = ["cut"] * (download.RETRIES + 1)
    with monkeypatch.context() as patch, pytest.raises(LofitError if how == "connection" else KeyboardInterrupt):
        if how == "user":
            patch.setattr(pooch.HTTPDownloader, "__call__", interrupted_at("val", pooch.HTTPDownloader.__call__))
        fetch()
    assert contents(tmp_path / "cache") == {"train.jsonl": FILES["MQuAKE/train.jsonl"]}
    source.requests.clear()
    fetch()
    assert source.requests == ["MQuAKE/val.jsonl", "MQuAKE/test.jsonl"]
    assert len(contents(tmp_path / "out")) == 3


def test_nothing_is_written_elsewhere_and_little_is_said(fetch, source, tmp_path, monkeypatch, capfd):
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "home")
    source.faults["MQuAKE/val.jsonl"] = [503, 503]
    # As in a fresh process: pooch would log to the screen.
    monkeypatch.setattr(pooch.get_logger(), "handlers", [logging.StreamHandler(sys.stderr)])
    pooch.get_logger().setLevel(logging.NOTSET)
    fetch()
    assert not list((tmp_path / "home").iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "home", "out"]
    said = capfd.readouterr()
    # A bar is drawn over itself: one line.
    assert said.out == "" and said.err.count("\n") == 1 and "Fetching mquake: 100%" in said.err


def test_the_registry_pins_whole_folders_to_one_commit():
    assert {kind: len(files) for kind, files in download.FILES.items()} == {"truthfulqa": 6, "mquake": 3, "clutrr": 3}
    folders = {kind: {Path(name).parent.name for name in files} for kind, files in download.FILES.items()}
    assert folders == {"truthfulqa": {"truthfulqa"}, "mquake": {"MQuAKE"}, "clutrr": {"clutrr"}}
    assert download.BASE_URL.split("/")[-3:] == [download.COMMIT, "dataset", ""] and len(download.COMMIT) == 40


@pytest.mark.skipif(not DATA.is_dir(), reason="the published files are not in ../shared/data")
@pytest.mark.parametrize("kind", download.FILES)
def test_the_registry_holds_the_hashes_of_the_published_files(kind):
    met = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (DATA / kind).iterdir()}
    assert met == {Path(name).name: sha256 for name, sha256 in download.FILES[kind].items()}


# ---------------------------------------------------------------------------------------------------------- helpers


def contents(folder):
    """What lies below `folder`, by file name, half-written files included."""
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def interrupted_at(split, download):
    """`download`, but the user presses Ctrl-C in the middle of a split's file."""

    def interrupted(self, url, file, store):
        if split in url:
            Path(file).write_bytes(b"half of")
            raise KeyboardInterrupt
        download(self, url, file, store)

    return interrupted
