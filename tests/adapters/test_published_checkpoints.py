"""Checkpoints of the published code, read as adapters."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from lofit.adapters.provenance import Provenance
from lofit.adapters.published import import_checkpoint
from lofit.errors import LofitError

GOLDEN = Path(__file__).parents[1] / "golden"
LAYERS, HEADS, HEAD_DIM = 2, 4, 8
INPUT = torch.arange(24).reshape(2, 12)


@pytest.fixture
def vectors():
    """attn_A and attn_v of all heads, layers x heads x head_dim: scales at three of them, offsets at two."""
    torch.manual_seed(1)
    values = {kind: torch.zeros(LAYERS, HEADS, HEAD_DIM) for kind in "Av"}
    for kind, heads in {"A": [(0, 1), (1, 0), (1, 3)], "v": [(1, 3), (0, 2)]}.items():
        for head in heads:
            values[kind][head] = torch.randn(HEAD_DIM)
    return values


@pytest.fixture
def checkpoint(tmp_path, model, vectors):
    return write(tmp_path / "checkpoint", model, vectors)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_an_imported_adapter_does_what_the_published_loop_does(tmp_path, make_model, vectors, shards, dtype):
    stored = {kind: values.to(dtype) for kind, values in vectors.items()}
    model = make_model().to(dtype).float()
    folder = write(tmp_path / "checkpoint", make_model().to(dtype), stored, shards=shards)
    adapter = import_checkpoint(folder)
    wanted = published_logits(model, {kind: values.float() for kind, values in stored.items()})
    with adapter.attach(model):
        logits = model(INPUT).logits
    torch.testing.assert_close(logits, wanted, atol=1e-6, rtol=1e-6)
    assert (wanted - model(INPUT).logits).abs().max() > 1e-2
    assert adapter.heads == [(0, 1), (0, 2), (1, 0), (1, 3)]
    assert adapter.scales.dtype == adapter.offsets.dtype == torch.float32
    assert adapter.provenance == Provenance(base_model="someone/llama")


@pytest.mark.parametrize("case", ["scaled", "offset"])
@pytest.mark.parametrize("attention", ["mha", "gqa"])
def test_an_imported_adapter_computes_the_golden_numbers_of_the_original(tmp_path, attention, case):
    expected = load_file(GOLDEN / attention / "expected.safetensors")
    model = AutoModelForCausalLM.from_pretrained(GOLDEN / attention).eval()
    trained, name = {"scaled": ("A", "scales"), "offset": ("v", "offsets")}[case]
    untouched = {kind: torch.zeros_like(expected["scales"]) for kind in "Av"}
    adapter = import_checkpoint(write(tmp_path / "checkpoint", model, {**untouched, trained: expected[name]}))
    seen = expected["attention_mask"].bool()
    with adapter.attach(model):
        logits = model(input_ids=expected["input_ids"], attention_mask=expected["attention_mask"]).logits
    assert (logits[seen] - expected[f"{case}.logits"][seen]).abs().max() < 5e-5
    if case == "offset":
        assert sorted(adapter.heads) == sorted(map(tuple, expected["selected"].tolist()))


@pytest.mark.parametrize(("kind", "absent"), [("A", "offsets"), ("v", "scales")])
def test_vectors_that_are_all_zero_are_left_out(tmp_path, model, vectors, kind, absent):
    only = {**{other: torch.zeros_like(values) for other, values in vectors.items()}, kind: vectors[kind]}
    adapter = import_checkpoint(write(tmp_path / "checkpoint", model, only))
    assert getattr(adapter, absent) is None
    assert adapter.heads == [tuple(head) for head in vectors[kind].any(-1).nonzero().tolist()]


def test_a_vector_that_is_not_there_is_zero(tmp_path):
    names = ("model.layers.0.self_attn.attn_A.1", "model.layers.1.self_attn.attn_v.0")
    save_file({name: torch.ones(HEAD_DIM) for name in names}, tmp_path / "model.safetensors")
    adapter = import_checkpoint(tmp_path)
    assert adapter.heads == [(0, 1), (1, 0)]
    assert adapter.scales[:, 0].tolist() == [1, 0] and adapter.offsets[:, 0].tolist() == [0, 1]


def test_a_head_with_one_number_that_is_not_zero_is_kept(tmp_path, model):
    values = {kind: torch.zeros(LAYERS, HEADS, HEAD_DIM) for kind in "Av"}
    values["v"][1, 2, 7] = -1e-30
    adapter = import_checkpoint(write(tmp_path / "checkpoint", model, values))
    assert adapter.heads == [(1, 2)] and adapter.offsets[0, 7].item() == pytest.approx(-1e-30)


def test_heads_with_two_digits_keep_their_numbers(tmp_path):
    names = {f"model.layers.{layer}.self_attn.attn_v.{head}": (layer, head) for layer in (2, 10) for head in (1, 11)}
    weights = {name: torch.full((HEAD_DIM,), float(100 * layer + head)) for name, (layer, head) in names.items()}
    save_file(weights, tmp_path / "model.safetensors")
    adapter = import_checkpoint(tmp_path)
    assert [(head, row[0]) for head, row in zip(adapter.heads, adapter.offsets.tolist(), strict=True)] == [
        ((2, 1), 201.0),
        ((2, 11), 211.0),
        ((10, 1), 1001.0),
        ((10, 11), 1011.0),
    ]


def test_a_single_file_is_a_checkpoint_too(checkpoint, vectors):
    adapter = import_checkpoint(checkpoint / "model.safetensors")
    assert len(adapter.heads) == 4 and adapter.provenance == Provenance(base_model="someone/llama")


def test_a_checkpoint_without_a_config_has_no_provenance(checkpoint):
    (checkpoint / "config.json").unlink()
    assert import_checkpoint(checkpoint).provenance == Provenance()


def test_shards_without_vectors_are_not_looked_into(tmp_path, model, vectors):
    folder = write(tmp_path / "checkpoint", model, vectors, shards=12)
    weight_map = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    needed = {shard for name, shard in weight_map.items() if ".attn_" in name}
    others = set(weight_map.values()) - needed
    assert others
    for shard in others:
        (folder / shard).unlink()
    assert len(import_checkpoint(folder).heads) == 4


def test_from_the_hub_only_safetensors_and_config_are_fetched(checkpoint, monkeypatch):
    asked = {}

    def fetch(hub_id, allow_patterns):
        asked[hub_id] = allow_patterns
        return str(checkpoint)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    adapter = import_checkpoint("someone/tuned")
    assert asked == {"someone/tuned": ["*.safetensors", "*.index.json", "config.json"]}
    training = {"imported_from": "someone/tuned"}
    assert adapter.provenance == Provenance(base_model="someone/llama", training=training)
    assert len(adapter.heads) == 4


def test_nothing_of_that_name(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refuses("no/such", "'no/such': neither here nor on the Hugging Face hub")


def test_a_model_that_is_not_of_the_published_code(tmp_path, model):
    model.save_pretrained(tmp_path)
    refuses(tmp_path, "no vectors of heads among its weights; expected parameters model.layers.LAYER.self_attn.attn_A")


def test_a_model_that_was_never_tuned(tmp_path, model, vectors):
    folder = write(tmp_path / "checkpoint", model, {kind: torch.zeros_like(vectors[kind]) for kind in "Av"})
    refuses(folder, "all zero")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite(tmp_path, model, vectors, number):
    vectors["v"][0, 2, 3] = number
    refuses(write(tmp_path / "checkpoint", model, vectors), r"layers\.0\.self_attn\.attn_v\.2: got NaN or infinity")


@pytest.mark.parametrize("shape", [(HEAD_DIM + 1,), (1, HEAD_DIM)])
def test_vectors_of_another_shape(checkpoint, shape):
    name = "model.layers.1.self_attn.attn_v.3"
    change(checkpoint / "model.safetensors", {name: torch.ones(shape)})
    refuses(checkpoint, rf"{re.escape(name)}: got shape {re.escape(str(shape))}; expected one head_dim")


def test_a_shard_that_is_missing(tmp_path, model, vectors):
    folder = write(tmp_path / "checkpoint", model, vectors, shards=3)
    weight_map = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    shard = weight_map["model.layers.0.self_attn.attn_v.2"]
    (folder / shard).unlink()
    refuses(folder, f"index.json: names {shard}, which is missing")


def test_a_shard_without_the_vector_that_the_index_names(tmp_path, model, vectors):
    folder = write(tmp_path / "checkpoint", model, vectors, shards=3)
    name = "model.layers.0.self_attn.attn_v.2"
    weight_map = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    change(folder / weight_map[name], {name: None})
    refuses(folder, f"{re.escape(name)} is not in the shard")


@pytest.mark.parametrize(("text", "fault"), [("{", "not valid JSON"), ("[]", "no weight_map"), ("{}", "no weight_map")])
def test_an_index_that_is_none(checkpoint, text, fault):
    (checkpoint / "model.safetensors.index.json").write_text(text)
    refuses(checkpoint, fault)


@pytest.mark.parametrize("length", [0, 7, 1000, -1])
def test_a_file_that_was_cut_short(checkpoint, length):
    file = checkpoint / "model.safetensors"
    file.write_bytes(file.read_bytes()[:length])
    refuses(checkpoint, "not a whole safetensors file")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
@pytest.mark.parametrize("as_file", [False, True])
def test_pickled_weights_are_not_opened(tmp_path, name, as_file):
    (tmp_path / name).write_bytes(b"cos\nsystem\n")
    refuses(tmp_path / name if as_file else tmp_path, "Pickled weights .* never read: .* safe_serialization=True")


# ---------------------------------------------------------------------------------------------------------- helpers


def refuses(source, match):
    with pytest.raises(LofitError, match=match) as caught:
        import_checkpoint(source)
    assert "\n" not in str(caught.value)


def published_logits(model, vectors):
    """Logits of `model` with each head's slice of the projection's input edited in turn, as the published code does."""

    def edit(layer):
        def hook(_, inputs):
            output = inputs[0].clone()
            for head in range(HEADS):
                columns = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)
                scale, offset = vectors["A"][layer, head], vectors["v"][layer, head]
                output[:, :, columns] = (scale + 1) * output[:, :, columns] + offset
            return (output,)

        return hook

    hooks = [
        layer.self_attn.o_proj.register_forward_pre_hook(edit(index)) for index, layer in enumerate(model.model.layers)
    ]
    logits = model(INPUT).logits
    for hook in hooks:
        hook.remove()
    return logits


def write(folder, model, vectors, *, shards=1):
    """Save `model` with its vectors beside the weights, under the names that the published code gives them."""
    folder.mkdir()
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    for kind, values in vectors.items():
        for layer, head in torch.cartesian_prod(*map(torch.arange, values.shape[:2])).tolist():
            weights[f"model.layers.{layer}.self_attn.attn_{kind}.{head}"] = values[layer, head].clone()
    names = sorted(weights)
    parts = [names[len(names) * part // shards : len(names) * (part + 1) // shards] for part in range(shards)]
    files = [f"model-{part:05d}-of-{shards:05d}.safetensors" for part in range(1, shards + 1)]
    if shards == 1:
        files = ["model.safetensors"]
    else:
        weight_map = {name: file for file, part in zip(files, parts, strict=True) for name in part}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    for file, part in zip(files, parts, strict=True):
        save_file({name: weights[name] for name in part}, folder / file, metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "_name_or_path": "someone/llama"}))
    return folder


def change(file, weights):
    """Replace tensors of a safetensors file, or drop them (None)."""
    changed = {**load_file(file), **weights}
    save_file({name: value for name, value in changed.items() if value is not None}, file)
