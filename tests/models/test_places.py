"""Names that stand for no model are refused without asking the hub."""

import json

import pytest

from lofit.errors import LofitError
from lofit.models.places import looks_like_path, not_found, refuse_non_model


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "name", ["./tiny", "../tiny", "/tiny", "/models/tiny", "a/b/c", "a/b/", "~/tiny", "no model/at all"]
)
def test_a_path_to_nowhere_is_said_to_be_no_folder(name):
    assert looks_like_path(name)
    fault = f"model {name!r}: no such folder; expected a folder with a model, or a model id on the Hugging Face hub"
    assert refused(name) == fault


@pytest.mark.parametrize("name", ["gpt2", "nope", "me/tiny", "meta-llama/Llama-2-7b-hf", "a.b/c_d"])
def test_what_may_be_an_id_is_for_the_hub_to_tell(name):
    assert not looks_like_path(name)
    refuse_non_model(name)


def test_a_folder_is_taken_whatever_its_name_looks_like(tmp_path):
    for name in ("tiny", "a/b/c"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
        refuse_non_model(name)
        refuse_non_model(f"./{name}")


def test_a_file_is_no_model(tmp_path):
    (tmp_path / "model.safetensors").touch()
    assert refused("model.safetensors").startswith("model 'model.safetensors': got a file; expected a folder")


@pytest.mark.parametrize(
    ("config", "end"), [({"base_model_name_or_path": "me/base"}, "or name its base, me/base"), ({}, "or name its base")]
)
def test_a_peft_adapter_names_its_base(tmp_path, config, end):
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(config))
    said = f"model 'lora': a PEFT adapter, no whole model; merge it first (`merge_and_unload`) {end}"
    assert refused("lora") == said
    (tmp_path / "lora" / "adapter_config.json").write_text("{")
    assert "adapter_config.json: not valid JSON" in refused("lora")
    (tmp_path / "lora" / "config.json").write_text("{}")
    refuse_non_model("lora")


def test_a_single_word_that_the_hub_lacks_was_more_likely_a_folder():
    assert not_found("nope").startswith("'nope': no such folder, nor a model that the Hugging Face hub")
    assert not_found("me/nope") == (
        "'me/nope': not found; expected a folder with a model, or a model id on the Hugging Face hub"
    )


def refused(source):
    with pytest.raises(LofitError) as caught:
        refuse_non_model(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)
