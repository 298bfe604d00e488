"""One's own data: what `fetch` brings together, from files, folders and a hub that runs in the test."""

import hashlib
import json
import os
import socket
import threading
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import datasets
import pyarrow
import pytest
from huggingface_hub import constants
from pyarrow import parquet

from lofit.errors import LofitError
from lofit.tasks import user_data
from lofit.tasks.record import SPLITS
from lofit.tasks.rows import files_in, read_rows

ROWS = [
    {"prompt": 'She said "é\u2028"', "completion": "007", "aliases": ["7"]},
    {"prompt": "b", "completion": "None", "aliases": None},
]
LINES = '{"prompt": "She said \\"é\u2028\\"", "completion": "007", "aliases": ["7"]}\n'
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIGS = "\n".join(
    ["---", "configs:"]
    + [f"- config_name: {name}\n  data_files: {name}/train.jsonl" for name in ("easy", "hard")]
    + ["---", "# A card"]
)
HUB = {
    "me/pets": {"README.md": "# Pets", "train.jsonl": LINES, "valid.jsonl": LINES * 2, "test.jsonl": LINES * 3},
    "me/two": {"README.md": CONFIGS, "easy/train.jsonl": LINES, "hard/train.jsonl": LINES * 2},
    "me/script": {"README.md": "# Code", "script.py": "raise SystemExit('this ran')"},
    "me/torn": {"README.md": "# Torn", "train.jsonl": '{"prompt": "a'},
}


@pytest.fixture(autouse=True)
def own_machine_only(monkeypatch):
    """Whatever asks for the address of another machine fails the test."""
    asked = []
    look_up = socket.getaddrinfo

    def refuse_others(host, *rest, **options):
        if host != "127.0.0.1":
            asked.append(host)
            raise OSError(f"a test asked for {host}")
        return look_up(host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", refuse_others)
    yield
    assert not asked


@pytest.fixture(autouse=True)
def caches_at_home(tmp_path_factory, monkeypatch):
    """The folder where the libraries keep what they are not told to keep elsewhere; it must stay empty."""
    home = tmp_path_factory.mktemp("home")
    for name in ("HF_HUB_CACHE", "HF_XET_CACHE"):
        monkeypatch.setattr(constants, name, str(home / name))
    for name in ("HF_DATASETS_CACHE", "HF_MODULES_CACHE", "DOWNLOADED_DATASETS_PATH", "EXTRACTED_DATASETS_PATH"):
        monkeypatch.setattr(datasets.config, name, home / name)
    yield home
    assert not list(home.iterdir())


@pytest.fixture
def hub(monkeypatch):
    """A hub with the datasets of HUB; gives the paths that it was asked for."""
    asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *request: HubRequest(asked, *request))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(variable, "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    address = f"http://127.0.0.1:{server.server_address[1]}"
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    for module, name in ((datasets.config, "HF_ENDPOINT"), (constants, "ENDPOINT")):
        monkeypatch.setattr(module, name, address)
    # Both would ask other hosts: a counter of downloads, and the types of a dataset's columns.
    monkeypatch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False)
    monkeypatch.setattr(datasets.config, "USE_PARQUET_EXPORT", False)
    yield asked
    server.shutdown()
    server.server_close()


def test_json_lines_are_copied_byte_for_byte(tmp_path):
    content = b'{"prompt":"a" ,\t"completion":1e2}\r\n\n{"b": "\xc3\xa9\\u00e9"}'
    (tmp_path / "mine.jsonl").write_bytes(content)
    assert fetch(tmp_path, tmp_path / "mine.jsonl") == {"all.jsonl": content}


def test_csv_cells_stay_the_text_that_they_are(tmp_path):
    (tmp_path / "mine.csv").write_bytes(b'prompt,completion,day\r\n"a, ""b""\nc",007,2020-01-01\r\nd,NA,\r\n')
    rows = [
        {"prompt": 'a, "b"\nc', "completion": "007", "day": "2020-01-01"},
        {"prompt": "d", "completion": "NA", "day": ""},
    ]
    assert fetched_rows(tmp_path, tmp_path / "mine.csv") == {"all": rows}


def test_json_keeps_its_texts_and_its_gaps(tmp_path):
    rows = [
        {"prompt": "é", "completion": "2020-01-01", "choices": ["a"], "deep": {"x": 1}},
        {"prompt": "c", "answer": 0},
    ]
    (tmp_path / "mine.json").write_text(json.dumps(rows, indent=2))
    assert fetched_rows(tmp_path, tmp_path / "mine.json") == {"all": rows}


def test_parquet_is_read_anew_when_it_changes(tmp_path):
    file = tmp_path / "mine.parquet"
    for rows in (ROWS, ROWS[::-1]):
        parquet.write_table(pyarrow.Table.from_pylist(rows), file)
        assert fetched_rows(tmp_path, file) == {"all": rows}


def test_dates_become_text_and_what_json_cannot_hold_is_refused(tmp_path):
    file = tmp_path / "mine.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([{"day": date(2020, 1, 2)}]), file)
    assert fetched_rows(tmp_path, file) == {"all": [{"day": "2020-01-02"}]}
    parquet.write_table(pyarrow.Table.from_pylist([{"a": b"1"}]), file)
    refuse(tmp_path, file, f"{file}, row 1: column 'a': got a bytes; expected texts, numbers and lists of them")


def test_a_folder_gives_each_split_that_it_has(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "notes.txt").write_text("not data")
    (folder / "train.csv").write_text("prompt,completion\na,b\n")
    assert list(fetch(tmp_path, folder)) == ["train.csv"]
    (folder / "test.json").write_text(json.dumps(ROWS))
    parquet.write_table(pyarrow.Table.from_pylist(ROWS[:1]), folder / "val.parquet")
    assert fetched_rows(tmp_path, folder) == {
        "train": [{"prompt": "a", "completion": "b"}],
        "val": ROWS[:1],
        "test": ROWS,
    }


def test_a_folder_without_train_or_with_two_of_a_split_is_refused(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    refuse(tmp_path, folder, f"{folder}: no file called train; got nothing; expected train, val and test in .jsonl, ")
    (folder / "test.jsonl").write_text(LINES)
    refuse(tmp_path, folder, f"{folder}: no file called train; got test.jsonl; expected ")
    for extension in (".jsonl", ".csv"):
        (folder / f"train{extension}").write_text(LINES)
    refuse(tmp_path, folder, f"{folder}: got train.csv and train.jsonl; expected one file per split")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("mine.txt", "a", "source: got FILE; expected a file in .jsonl, .json, .csv, .tsv, .parquet"),
        ("mine.csv", "prompt,completion\na\n", "FILE, line 2: got 1 columns"),
        ("mine.json", '[{"a": 1},\n', "FILE, line 2: cut short or not JSON"),
        ("mine.parquet", "not a table", "FILE: cut short or not Parquet (Could not open Parquet input source"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    refuse(tmp_path, tmp_path / name, words.replace("FILE", str(tmp_path / name)))


def test_nothing_is_written_where_one_split_is_faulty(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "train.jsonl").write_text(LINES)
    (folder / "test.json").write_text("[")
    refuse(tmp_path, folder, f"{folder}/test.json: cut short")


@pytest.mark.parametrize(
    "source", ["mine.jsonl", "data/mine.csv", "/no/such/folder", "./mine", "pets", "a/b/c", "json"]
)
def test_what_can_be_no_hub_dataset_is_not_looked_for_there(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", lambda *rest, **options: pytest.fail("asked the hub"))
    refuse(tmp_path, source, f"source: no such file or folder: {source}; expected a file, a folder, or ")


@pytest.mark.parametrize("key", ["revision", "subset", "splits"])
def test_a_file_has_none_of_the_hubs_keys(tmp_path, key):
    (tmp_path / "mine.jsonl").write_text(LINES)
    value = {"train": "x"} if key == "splits" else "x"
    words = f"{key}: got {value!r}; expected only for a hub dataset, not for {tmp_path}/mine.jsonl"
    refuse(tmp_path, tmp_path / "mine.jsonl", words, **{key: value})


def test_a_hub_dataset_is_downloaded_and_writes_nowhere_else(tmp_path, caches_at_home, hub):
    rows = [json.loads(LINES)]
    expected = {"train": rows, "val": rows * 2, "test": rows * 3}
    assert fetched_rows(tmp_path, "me/pets") == expected
    assert any("/resolve/main/" in path for path in hub)
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "out"}
    assert str(caches_at_home / "HF_HUB_CACHE") == constants.HF_HUB_CACHE


def test_a_hub_dataset_is_read_at_its_revision_and_without_a_network_from_the_cache(tmp_path, monkeypatch, hub):
    first = fetch(tmp_path, "me/pets", revision="v1")
    assert any("/resolve/v1/" in path for path in hub) and not any("/resolve/main/" in path for path in hub)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch(tmp_path, "me/pets", revision="v1") == first
    refuse(tmp_path, "me/pets", "source: no file or folder me/pets here, and the hub cannot be reached")


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        ("me/none", {}, "me/none here, and as a hub dataset: Dataset 'me/none' doesn't exist"),
        ("me/pets", {"revision": "v9"}, "me/pets here, and as a hub dataset, revision v9: Revision 'v9' doesn't exist"),
        ("me/two", {}, "me/two here, and as a hub dataset: Config name is missing. Please pick one among the "),
        ("me/two", {"subset": "odd"}, "me/two here, and as a hub dataset, subset odd: BuilderConfig 'odd' not found. "),
        ("me/script", {}, "me/script here, and as a hub dataset: Dataset scripts are no longer supported"),
        ("me/torn", {}, "me/torn here, and as a hub dataset: JSON parse error"),
    ],
)
def test_a_hub_dataset_that_cannot_be_loaded_is_refused(tmp_path, hub, source, options, words):
    message = refuse(tmp_path, source, f"source: no file or folder {words}", **options)
    assert ("'easy', 'hard'" in message) == (source == "me/two") and "load_dataset" not in message


@pytest.mark.parametrize("usual", [None, "usual"])
def test_a_fault_while_a_hub_dataset_is_loaded_is_one_line_and_leaves_the_settings(tmp_path, monkeypatch, usual):
    seen = []

    def load_dataset(*rest, **options):
        seen.append(os.environ["HF_XET_CACHE"])
        raise OSError("No space\nleft")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.delenv("HF_XET_CACHE", raising=False)
    if usual:
        monkeypatch.setenv("HF_XET_CACHE", usual)
    message = refuse(tmp_path, "me/pets", "source: no file or folder me/pets here")
    assert message.endswith("as a hub dataset: No space left")
    assert seen == [str(tmp_path / "cache" / "hub" / "xet")] and os.environ.get("HF_XET_CACHE") == usual


def test_a_subset_of_a_hub_dataset_is_chosen_by_its_name(tmp_path, hub):
    assert fetched_rows(tmp_path, "me/two", subset="hard") == {"train": [json.loads(LINES)] * 2}


def test_csv_json_and_parquet_of_a_hub_dataset_are_read_alike(tmp_path, monkeypatch):
    rows = [{"prompt": "é", "completion": "b"}, {"prompt": "c", "completion": "d"}]
    for extension in ("csv", "json", "parquet"):
        folder = tmp_path / extension
        folder.mkdir()
        for split in ("train", "validation"):
            getattr(datasets.Dataset.from_list(rows), f"to_{extension}")(folder / f"{split}.{extension}")
        on_hub(monkeypatch, folder)
        assert fetched_rows(tmp_path, f"me/{extension}") == {"train": rows, "val": rows}


def test_splits_of_a_hub_dataset_go_by_their_names_and_none_is_taken_twice(tmp_path, monkeypatch):
    folder = tmp_path / "pets"
    folder.mkdir()
    for split in ("train", "validation", "test"):
        (folder / f"{split}.jsonl").write_text(json.dumps({"prompt": split}) + "\n")
    on_hub(monkeypatch, folder)

    def taken(**splits):
        return {name: row["prompt"] for name, (row,) in fetched_rows(tmp_path, "me/pets", splits=splits).items()}

    assert taken() == {"train": "train", "val": "validation", "test": "test"}
    assert taken(test="validation") == {"train": "train", "test": "validation"}
    assert taken(val="test", test="validation") == {"train": "train", "val": "test", "test": "validation"}
    for splits, words in (
        ({"val": "dev"}, ".val: got 'dev'; expected train, validation, test, as in me/pets"),
        ({"val": "test", "test": "test"}, ": got {'val': 'test', 'test': 'test'}; expected another name for each"),
        ({"val": "train"}, ": me/pets has no split 'train'; expected train: train or validation or test"),
    ):
        refuse(tmp_path, "me/pets", f"splits{words}", splits=splits)


# ---------------------------------------------------------------------------------------------------------- helpers


class HubRequest(BaseHTTPRequestHandler):
    """As much of the hub's protocol as `datasets` needs for files that lie in git."""

    protocol_version = "HTTP/1.1"

    def __init__(self, asked, *request):
        self.asked = asked
        super().__init__(*request)

    def do_GET(self):
        form = parse_qs(self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode())
        path = unquote(urlsplit(self.path).path)
        self.asked.append(path)
        # /datasets/OWNER/NAME/resolve/REVISION/FILE, and /api/datasets/OWNER/NAME/ACTION/REVISION
        _, owner, name, action, revision, file, *_ = [*path.removeprefix("/api").strip("/").split("/", 5), "", "", ""]
        files = HUB.get(f"{owner}/{name}")
        if files is None:
            self.answer(404, error="RepoNotFound")
        elif action == "resolve" and revision not in ("main", "v1", COMMIT):
            self.answer(404, error="RevisionNotFound")
        elif action == "resolve":
            self.answer(200, files[file]) if file in files else self.answer(404, error="EntryNotFound")
        elif action in ("tree", "paths-info"):
            listed = [
                {"type": "file", "path": path, "size": len(text.encode()), "oid": digest(text)}
                for path, text in files.items()
                if action == "tree" or path in form["paths"]
            ]
            self.answer(200, json.dumps(listed))
        else:
            self.answer(200, json.dumps({"id": f"{owner}/{name}", "sha": COMMIT}))

    def answer(self, status, text="", *, error=None):
        content = text.encode()
        self.send_response(status)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{digest(text)}"')
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *rest):
        pass

    do_HEAD = do_POST = do_GET  # noqa: N815


def digest(text):
    return hashlib.sha1(text.encode()).hexdigest()


def on_hub(monkeypatch, folder):
    """Have `datasets` find the files of a folder under me/<its name>."""

    def load_dataset(name, subset, *, revision, cache_dir):
        assert (name, subset, revision) == (f"me/{folder.name}", None, None)
        return load(str(folder), cache_dir=cache_dir)

    load = datasets.load.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)


def fetch(folder, source, **options):
    """The files that are written, in the order of our splits."""
    out = folder / "out"
    for stale in out.iterdir() if out.exists() else ():
        stale.unlink()
    user_data.fetch(
        str(source), out, cache=folder / "cache", **{"revision": None, "subset": None, "splits": {}, **options}
    )
    order = ["all", "train", "val", "test"]
    written = [file for file in out.iterdir() if file.name != "origin.json"]
    return {
        file.name: file.read_bytes() for file in sorted(written, key=lambda file: order.index(file.name.split(".")[0]))
    }


def fetched_rows(folder, source, **options):
    """The rows that preprocessing reads, by split."""
    fetch(folder, source, **options)
    files = files_in(folder / "out")
    return {name: [row for _, row in read_rows(files[name])] for name in ("all", *SPLITS) if name in files}


def refuse(folder, source, words, **options):
    with pytest.raises(LofitError) as refusal:
        fetch(folder, source, **options)
    message = str(refusal.value)
    assert message.startswith(words) and "\n" not in message
    assert not (folder / "out").exists() or not list((folder / "out").iterdir())
    return message
