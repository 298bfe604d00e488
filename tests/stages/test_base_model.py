"""The stage base_model: a GGUF file becomes a folder among the artifacts, which is all that later stages see."""

from pathlib import Path

import pytest

pytest.importorskip("gguf", reason="no package gguf: pip install -e '.[models]'")

import torch
import yaml

from lofit.errors import LofitError
from lofit.models.identity import file_hash, folder_hash
from lofit.storage.files import read_json, write_json
from stages import paths
from stages.base_model import base_model
from stages.check import faulty_model
from stages.model import load_base, read_base
from stages.params.load import load, validate
from stages.params.plan import plans
from stages.params.yaml_file import read_yaml
from stages.plan import plan_file
from tests.gguf_files import write_gguf

PARAMS = Path(__file__).parents[2] / "params.yaml"


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("LOFIT_DEVICE", "cpu")
    write_json(paths.DEMO / "figures.json", {})
    return tmp_path


def plan_of(**model):
    """Write params.yaml and the plan of the stage."""
    raw = read_yaml(PARAMS)
    raw["model"] |= model
    for task in raw["tasks"].values():
        task["fetch_data"]["source"] = "public"
    for row in raw["methods"].values():
        row.pop("select_heads", None)
    raw["run"] |= {"methods": [], "controls": [], "baselines": ["base"]}
    paths.PARAMS.write_text(yaml.safe_dump(raw))
    plan = dict(plans(load(paths.PARAMS)))[("base_model",)]
    write_json(plan_file("base_model"), plan)
    return plan


def test_a_gguf_file_becomes_a_folder_that_later_stages_load(project, monkeypatch, capsys):
    monkeypatch.setattr("stages.params.plan.code_hash", lambda *pages: "")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    made_from = write_gguf(project / "tiny.gguf")
    plan = plan_of(name="tiny.gguf", dtype="auto")
    assert plan["files"] == file_hash(project / "tiny.gguf")
    base_model("tiny")
    assert "model.dtype: auto is bfloat16 on this machine" in capsys.readouterr().out.splitlines()
    manifest = read_json(paths.BASE_MODEL)
    assert (manifest["name"], manifest["source"], manifest["dtype"]) == ("tiny.gguf", "artifacts/converted", "bfloat16")
    assert manifest["conversion"].keys() == {"sha256", "transformers", "gguf"}
    assert manifest["conversion"]["sha256"] == plan["files"]
    assert manifest["revision"] == folder_hash(paths.CONVERTED)
    # From here on the file is not needed.
    (project / "tiny.gguf").unlink()
    model, _ = load_base(read_base())
    weight = model.model.embed_tokens.weight
    assert torch.equal(weight, made_from.model.embed_tokens.weight.to(torch.bfloat16))
    # Another file, another plan.
    write_gguf(project / "tiny.gguf", quantised=True)
    assert plan_of(name="tiny.gguf", dtype="auto")["files"] != plan["files"]


def test_where_nothing_is_converted_a_note_says_so(project, monkeypatch):
    monkeypatch.setattr("stages.params.plan.code_hash", lambda *pages: "")
    from lofit.models.gguf import convert

    write_gguf(project / "tiny.gguf")
    convert(project / "tiny.gguf", project / "model")
    plan_of(name="model")
    base_model("tiny")
    assert [file.name for file in paths.CONVERTED.iterdir()] == ["README.txt"]
    manifest = read_json(paths.BASE_MODEL)
    assert (manifest["source"], manifest["dtype"], manifest["conversion"]) == ("model", "float32", None)


def test_a_file_that_cannot_be_converted_names_its_key(project, monkeypatch):
    monkeypatch.setattr("stages.params.plan.code_hash", lambda *pages: "")
    (project / "tiny.gguf").write_bytes(b"GGUF")
    plan_of(name="tiny.gguf")
    with pytest.raises(LofitError, match=r"^params.yaml: model.name: tiny.gguf: cut off or damaged"):
        base_model("tiny")
    assert not paths.BASE_MODEL.exists() and not paths.CONVERTED.exists()


def params_with(**model):
    raw = read_yaml(PARAMS)
    raw["model"] |= model
    for task in raw["tasks"].values():
        task["fetch_data"]["source"] = "public"
    return validate(raw)


def test_keys_of_the_hub_are_refused_for_a_model_that_is_one_file_all_at_once():
    for name in ("smollm2-135m", "data/tiny.gguf", "demo"):
        with pytest.raises(LofitError) as caught:
            params_with(name=name, file="tiny.gguf", revision="main")
        assert str(caught.value).splitlines() == [
            f"params.yaml: model.revision: got 'main'; expected null for {name}",
            f"params.yaml: model.file: got 'tiny.gguf'; expected null for {name}",
        ]
    with pytest.raises(LofitError, match=r"model\.name: got 'model'; expected the id of a model on the hub"):
        params_with(name="model", file="tiny.gguf")
    with pytest.raises(LofitError, match=r"model\.file: got 'tiny.bin'; expected the name of a .gguf file"):
        params_with(name="owner/model", file="tiny.bin")
    params = params_with(name="owner/model", file="tiny.gguf", revision="main")
    assert params.model.full_name == "owner/model/tiny.gguf" and faulty_model(params) == []


def test_check_says_what_is_not_there(project, monkeypatch):
    (fault,) = faulty_model(params_with(name="data/tiny.gguf"))
    assert fault == "model.name: got 'data/tiny.gguf', which is not there; expected a GGUF file"
    monkeypatch.setattr("lofit.models.shipped.find_spec", lambda name: None)
    (fault,) = faulty_model(params_with(name="smollm2-135m"))
    assert fault.startswith("model.name: model 'smollm2-135m': its package is not installed; expected after `pip ")
