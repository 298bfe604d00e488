"""Base models: resolved to something exact, refused in words."""

import json
import os
import shutil
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from transformers import BertConfig, MambaConfig, T5Config

from lofit.errors import LofitError
from lofit.models import base as models
from lofit.models.layout import head_layout


@pytest.fixture
def folder(tmp_path, model, tokenizer):
    home = tmp_path / "model"
    model.save_pretrained(home)
    tokenizer.save_pretrained(home)
    return home


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_a_folder_is_resolved_by_its_content(folder, model):
    resolved = models.resolve(str(folder), dtype="float32")
    assert (resolved.name, resolved.source, resolved.dtype) == (str(folder), str(folder), "float32")
    assert resolved.layout == head_layout(model)
    assert len(resolved.revision) == len(resolved.tokenizer_sha256) == 64


def test_a_resolved_model_survives_json(folder):
    resolved = models.resolve("mine", source=str(folder), dtype="bfloat16")
    assert resolved.name == "mine" and resolved.source == str(folder)
    assert models.BaseModel.from_json(json.loads(json.dumps(resolved.to_json()))) == resolved


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "generation_config.json", "notes.txt"])
def test_the_revision_changes_with_any_file(folder, file):
    before = models.resolve(str(folder), dtype="float32").revision
    with (folder / file).open("ab") as opened:
        opened.write(b"\n")
    assert models.resolve(str(folder), dtype="float32").revision != before


def test_the_revision_does_not_change_with_the_path(folder):
    before = models.folder_hash(folder)
    assert models.folder_hash(folder.rename(folder.with_name("elsewhere"))) == before


def test_the_revision_changes_with_a_name(folder):
    before = models.folder_hash(folder)
    (folder / "model.safetensors").rename(folder / "model.bak")
    assert models.folder_hash(folder) != before


def test_the_tokenizer_is_known_by_its_definition(tokenizer, make_tokenizer):
    assert models.tokenizer_hash(tokenizer) == models.tokenizer_hash(make_tokenizer())
    assert models.tokenizer_hash(tokenizer) != models.tokenizer_hash(make_tokenizer(words=False))


def test_a_folder_is_read_again_only_where_sizes_or_times_of_its_files_have_changed(folder, tmp_path, monkeypatch):
    notes, weights = tmp_path / "notes", folder / "model.safetensors"
    first = models.folder_hash(folder, notes=notes)
    assert first == models.folder_hash(folder)
    with monkeypatch.context() as patch:
        patch.setattr("hashlib.file_digest", lambda *_: pytest.fail("a file was read again"))
        assert models.folder_hash(folder, notes=notes) == first
    # As a download does that gives a file the time of its source.
    stat = weights.stat()
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert models.folder_hash(folder, notes=notes) != first
    weights.write_bytes(weights.read_bytes() + b"x")
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert models.folder_hash(folder, notes=notes) != first


def test_weights_beyond_the_range_of_float16_are_refused(folder, make_model):
    model = make_model()
    model.model.layers[1].mlp.up_proj.weight[0, 0] = 1e6
    model.save_pretrained(folder)
    for dtype in ("float32", "bfloat16"):
        models.load(models.resolve(str(folder), dtype=dtype), device="cpu")
    with pytest.raises(LofitError) as refusal:
        models.load(models.resolve(str(folder), dtype="float16"), device="cpu")
    assert str(refusal.value).endswith(
        "model.layers.1.mlp.up_proj.weight is too large for float16; expected dtype bfloat16"
    )


def test_special_tokens_that_differ_from_the_manifest_are_refused(folder):
    resolved = models.resolve(str(folder), dtype="float32")
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**settings, "eos_token_id": 9}))
    with pytest.raises(LofitError, match=r"ends=\(0, 9\).*; expected .*ends=\(0,\).*, as it was when it was resolved"):
        models.load(resolved, device="cpu")
    assert models.load(models.resolve(str(folder), dtype="float32"), device="cpu")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_loaded_model_is_frozen_and_as_it_was_saved(folder, model, tokenizer, dtype):
    loaded, its_tokenizer = models.load(models.resolve(str(folder), dtype=dtype), device="cpu")
    assert not loaded.training and not any(weight.requires_grad for weight in loaded.parameters())
    for name, weight in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight.to(getattr(torch, dtype)))
    assert its_tokenizer("Q: A: no")["input_ids"] == tokenizer("Q: A: no")["input_ids"]


def test_a_revision_of_a_folder_is_refused(folder):
    with pytest.raises(LofitError, match=f"^revision: got 'main'; expected none, since {folder} is a folder$"):
        models.resolve(str(folder), revision="main", dtype="float32")


@pytest.mark.parametrize("name", ["nobody/nothing-of-the-kind", "/no/such/folder", "no such id!"])
def test_a_model_that_is_nowhere_is_one_line(name):
    refuse(name, repr(name))


def write_hub_cache(home, folder, commits):
    """A model in the cache of the hub's client, at several commits of which the last is main's."""
    repository = home / "models--me--tiny"
    for commit, bytes_more in commits.items():
        snapshot = repository / "snapshots" / commit
        shutil.copytree(folder, snapshot)
        (snapshot / "notes.txt").write_text(bytes_more)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)


def test_a_hub_id_is_resolved_to_its_commit(folder, tmp_path, monkeypatch):
    old, new = "a" * 40, "b" * 40
    write_hub_cache(tmp_path / "hub", folder, {old: "", new: ""})
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert models.resolve("me/tiny", dtype="float32").revision == new
    pinned = models.resolve("me/tiny", revision=old, dtype="float32")
    assert (pinned.source, pinned.revision) == ("me/tiny", old)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (GatedRepoError, "'some/model': gated; accept its licence on the hub, then run `hf auth login`"),
        (RevisionNotFoundError, "'some/model': no such revision"),
        (RepositoryNotFoundError, "'some/model': not found; expected a folder with a model, or a model id on the"),
    ],
)
def test_what_the_hub_refuses_is_said_in_our_words(monkeypatch, error, words):
    def refused(*args, **kwargs):
        response = SimpleNamespace(status_code=403, headers={}, request=None)
        try:
            raise error("403 Client Error.\nAccess is restricted.", response=response)
        except error as cause:
            raise OSError("You are trying to access a gated repo.\nMake sure to have access to it") from cause

    monkeypatch.setattr(models, "hf_hub_download", refused)
    refuse("some/model", words)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "config.json").unlink(), "cannot be loaded: "),
        (lambda folder: (folder / "config.json").write_text("{"), "is not a valid JSON file"),
        (lambda folder: (folder / "config.json").write_text("{}"), "model_type"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "frob"}'), "model type `frob`"),
        (lambda folder: T5Config().save_pretrained(folder), "Unrecognized configuration class"),
        (lambda folder: [file.unlink() for file in folder.glob("tokenizer*")], "tokenizer"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "cannot be loaded: "),
    ],
)
def test_a_folder_that_is_no_decoder_is_one_line(folder, damage, words):
    damage(folder)
    refuse(str(folder), words)


@pytest.mark.parametrize(
    "config",
    [
        MambaConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1),
        BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, is_decoder=True),
    ],
)
def test_an_architecture_without_an_output_projection_is_refused(folder, config):
    config.save_pretrained(folder)
    with pytest.raises(LofitError, match="no attention output projection found; expected "):
        models.resolve(str(folder), dtype="float32")


@pytest.mark.parametrize("damage", ["missing", "cut short", "a weight missing", "a weight too many"])
def test_weights_that_are_not_the_models_are_refused(folder, model, damage):
    resolved = models.resolve(str(folder), dtype="float32")
    file = folder / "model.safetensors"
    state = {name: weight.clone() for name, weight in model.state_dict().items()}
    if damage == "missing":
        file.unlink()
    elif damage == "cut short":
        file.write_bytes(file.read_bytes()[:-100])
    else:
        del state["model.layers.0.self_attn.o_proj.weight"]
        if damage == "a weight too many":
            state = {**model.state_dict(), "model.layers.0.self_attn.o_proj.bias": torch.ones(32)}
        model.save_pretrained(folder, state_dict=state)
    with pytest.raises(LofitError):
        models.load(resolved, device="cpu")


def test_code_of_a_model_is_neither_run_nor_asked_about(folder, monkeypatch):
    questions = []
    monkeypatch.setattr("builtins.input", lambda prompt="": questions.append(prompt) or "n")
    (folder / "config.json").write_text('{"model_type": "frob", "auto_map": {"AutoConfig": "code.Config"}}')
    refuse(str(folder), "custom code")
    assert questions == []


# ---------------------------------------------------------------------------------------------------------- helpers


def refuse(name, words):
    with pytest.raises(LofitError) as refusal:
        models.resolve(name, dtype="float32")
    message = str(refusal.value)
    assert message.startswith("model '") and words in message
    assert "\n" not in message
