"""The command `lofit` with GGUF files: the same names, and adapters that find their base by one."""

import pytest

pytest.importorskip("gguf", reason="no package gguf: pip install -e '.[models]'")

import torch
from transformers import AutoModelForCausalLM

from lofit import HeadAdapter, LofitError, load_adapter
from lofit.adapters.provenance import Provenance
from lofit.cli.adapter_base import base_of
from lofit.cli.export import export
from lofit.cli.generate import generate
from lofit.cli.inspect import inspect
from lofit.models.named import CACHE, find_model
from tests.gguf_files import write_gguf


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def save_adapter(folder, *, base, revision):
    torch.manual_seed(0)
    made = Provenance(base_model=base, base_revision=revision, num_layers=2, num_heads=4)
    HeadAdapter([(0, 1), (1, 2)], offsets=torch.randn(2, 16), provenance=made).save_pretrained(folder)


def test_commands_take_a_gguf_file_and_convert_it_once(tmp_path, capsys):
    write_gguf(tmp_path / "tiny.gguf")
    inspect("tiny.gguf")
    first = capsys.readouterr()
    assert "8, 4 in each layer" in first.out
    assert first.err.count("converting its GGUF file into .cache/models/tiny-") == 1
    generate(["the 12"], model="tiny.gguf", max_new_tokens=2, dtype="auto")
    second = capsys.readouterr()
    assert "converting" not in second.err and "--dtype: auto is " in second.err
    assert "tiny.gguf: " in second.out


def test_an_adapter_finds_the_file_that_its_base_was_converted_from(tmp_path, monkeypatch, capsys):
    from lofit.models.identity import folder_hash

    project = tmp_path / "project"
    project.mkdir()
    write_gguf(project / "tiny.gguf")
    monkeypatch.chdir(project)
    revision = folder_hash(tmp_path / "project" / find_model("tiny.gguf", cache=CACHE).source)
    save_adapter(project / "tuned", base="tiny.gguf", revision=revision)
    # From elsewhere, with a cache of its own: the same bytes.
    monkeypatch.chdir(tmp_path)
    export(str(project / "tuned"), tmp_path / "out", to="hf", device="cpu")
    assert "converting" in capsys.readouterr().err
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.attention_bias
    # Another file under the same name is another base.
    write_gguf(project / "tiny.gguf", quantised=True)
    with pytest.raises(LofitError, match=r"tuned: made from .*tiny.gguf at "):
        export(str(project / "tuned"), tmp_path / "other", to="hf", device="cpu")


@pytest.mark.parametrize("name", ["smollm2-135m", "owner/model/tiny.gguf"])
def test_an_adapter_of_a_shipped_model_or_a_file_of_the_hub_names_its_base(name, tmp_path):
    save_adapter(tmp_path / "tuned", base=name, revision="a" * 64)
    assert base_of("tuned", load_adapter("tuned").provenance) == (name, name)
