"""Checkpoints with offsets baked into biases, read as adapters."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, LlamaForCausalLM

from lofit import head_layout
from lofit.adapters.baked import Bias, import_baked, offsets
from lofit.adapters.published import import_checkpoint
from lofit.errors import LofitError
from lofit.models.base import resolve
from tests.families import SHAPE, TOKENS

INPUT = torch.arange(24).reshape(2, 12)
EDITED = [(0, 1), (1, 0), (1, 3)]
WIDER = {"head_dim": 16}
"""4 heads of 16 numbers in a model whose residual stream has 32."""
NARROWER = {"head_dim": 4}


@pytest.fixture
def make_base(tmp_path, make_model, tokenizer):
    """An unedited Llama in a folder, in one dtype; keywords change its config."""

    def make(dtype=torch.float32, **changes):
        folder = tmp_path / "base"
        make_model(**changes).to(dtype).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.fixture
def base(make_base):
    return make_base()


@pytest.mark.parametrize("shards", ["5GB", "20KB"])
def test_the_adapter_does_to_the_base_what_the_biases_do(base, tmp_path, shards):
    values = randomly(EDITED)
    source = bake(base, tmp_path / "baked", values, shards=shards)
    assert ("model.safetensors.index.json" in {file.name for file in source.iterdir()}) == (shards == "20KB")
    adapter = import_baked(source, resolve(str(base), dtype="float32"))
    assert adapter.heads == EDITED and adapter.scales is None
    torch.testing.assert_close(adapter.offsets, torch.stack([values[head] for head in EDITED]), rtol=1e-4, atol=1e-4)
    assert difference(base, source, adapter) < 1e-5
    made = adapter.provenance
    assert (made.base_model, made.target_module) == (str(base), "self_attn.o_proj")
    assert made.base_revision == resolve(str(base), dtype="float32").revision
    assert made.training == {"imported_from": str(source)}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kept", ["as it is", "in float32"])
def test_rounding_noise_is_no_offset(make_base, tmp_path, dtype, kept):
    """Solved for all heads, every head has an offset, of up to a tenth of the real ones."""
    base, values = make_base(dtype), randomly(EDITED)
    source = bake(base, tmp_path / "baked", values)
    if kept == "in float32":
        rewrite(source, lambda name, tensor: tensor.float())
    weights, naive = load_file(source / "model.safetensors"), torch.zeros(2, 4, 8)
    for layer in (0, 1):
        weight, bias = (weights[name(layer, kind)].double() for kind in ("weight", "bias"))
        naive[layer] = torch.linalg.solve(weight, bias).view(4, 8).float()
    assert naive.norm(dim=-1).min() > 1e-3
    adapter = import_baked(source, resolve(str(base), dtype="float32"))
    assert adapter.heads == EDITED
    rounding = 4 * torch.finfo(dtype).eps
    expected = torch.stack([values[head] for head in EDITED])
    assert (adapter.offsets - expected).norm() < rounding * expected.norm()
    assert difference(base, source, adapter) < 4 * rounding


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_weak_head_beside_strong_ones_is_found(make_base, tmp_path, dtype):
    base, values = make_base(dtype), randomly([(0, 0), (0, 1), (0, 2), (1, 1)])
    values[0, 2] /= 50
    adapter = import_baked(bake(base, tmp_path / "baked", values), resolve(str(base), dtype="float32"))
    assert adapter.heads == [(0, 0), (0, 1), (0, 2), (1, 1)]


def test_what_sums_in_float32_lose_is_no_offset():
    """Four heads of 128 numbers, whose bias is off by more than it was rounded."""
    torch.manual_seed(0)
    matrix, vectors = torch.randn(512, 512), torch.zeros(4, 128)
    vectors[1:3] = torch.randn(2, 128)
    bias = matrix @ vectors.flatten()
    exact = matrix.double() @ vectors.flatten().double()
    rounding = torch.finfo(torch.float32).eps / 2 * bias.double().abs()
    assert (bias - exact).norm() > rounding.norm()
    found = offsets(matrix.double(), Bias(bias.double(), rounding), 128)
    assert sorted(found) == [1, 2]
    torch.testing.assert_close(found[2], vectors[2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "dtype"), [(NARROWER, torch.float16), (WIDER, torch.float32), (WIDER, torch.float16)]
)
def test_heads_need_not_fill_the_residual_stream(make_base, tmp_path, changes, dtype):
    base = make_base(dtype, **changes)
    source = bake(base, tmp_path / "baked", randomly(EDITED, changes["head_dim"]))
    adapter = import_baked(source, resolve(str(base), dtype="float32"))
    assert difference(base, source, adapter) < (1e-5 if dtype == torch.float32 else 0.02)
    if changes == NARROWER:
        assert adapter.heads == EDITED


def test_all_heads_are_kept_where_all_are_needed(base, tmp_path):
    values = randomly([(layer, head) for layer in (0, 1) for head in range(4)])
    adapter = import_baked(bake(base, tmp_path / "baked", values), resolve(str(base), dtype="float32"))
    assert adapter.heads == sorted(values)
    torch.testing.assert_close(
        adapter.offsets, torch.stack([values[head] for head in sorted(values)]), rtol=1e-3, atol=1e-3
    )


def test_a_bias_that_no_head_gives_is_refused(make_base, tmp_path):
    base = make_base(**NARROWER)
    source = bake(base, tmp_path / "baked", randomly(EDITED, 4))
    rewrite(source, lambda key, tensor: torch.randn(32) if key == name(1, "bias") else tensor)
    refuses(source, base, r"layers\.1\.self_attn\.o_proj\.bias: no offsets of heads give it")


def test_a_transposed_weight_and_a_bias_of_its_own(tmp_path, tokenizer):
    """GPT-2, whose Conv1D has both; published files leave out the first part of its names."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(GPT2Config(**{**SHAPE, **TOKENS, "vocab_size": 320})).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2 if weight.ndim > 1 else 0.1)
    base, source = tmp_path / "base", tmp_path / "baked"
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    values = randomly(EDITED)
    with torch.no_grad():
        for (layer, head), vector in values.items():
            projection = model.transformer.h[layer].attn.c_proj
            projection.bias += vector @ projection.weight[head * 8 : head * 8 + 8]
    wanted = model(INPUT).logits
    model.save_pretrained(source)
    weights = load_file(source / "model.safetensors")
    save_file({key.removeprefix("transformer."): value for key, value in weights.items()}, source / "model.safetensors")
    adapter = import_baked(source, resolve(str(base), dtype="float32"))
    assert adapter.heads == EDITED
    unedited = AutoModelForCausalLM.from_pretrained(base)
    with adapter.attach(unedited), torch.no_grad():
        torch.testing.assert_close(unedited(INPUT).logits, wanted, rtol=1e-5, atol=1e-5)


def test_biases_alone_are_enough(base, tmp_path):
    source = bake(base, tmp_path / "baked", randomly(EDITED))
    rewrite(source, lambda name, tensor: tensor if name.endswith("o_proj.bias") else None)
    assert import_baked(source / "model.safetensors", resolve(str(base), dtype="float32")).heads == EDITED


def test_a_checkpoint_rounded_more_than_its_base_is_of_that_base(make_base, tmp_path):
    base, values = make_base(), randomly(EDITED)
    shutil.copytree(base, tmp_path / "half")
    rewrite(tmp_path / "half", lambda name, tensor: tensor.half())
    source = bake(tmp_path / "half", tmp_path / "baked", values)
    assert import_baked(source, resolve(str(base), dtype="float32")).heads == EDITED


@pytest.mark.parametrize("part", [1.01, -1])
def test_another_base_is_refused(base, tmp_path, part):
    source = bake(base, tmp_path / "baked", randomly(EDITED))
    rewrite(base, lambda key, tensor: part * tensor if key == name(1, "weight") else tensor)
    refuses(source, base, r"layers\.1\.self_attn\.o_proj\.weight: got other numbers than those of .*; expected --base")


def test_biases_of_other_modules_are_refused_unless_they_are_zero(base, tmp_path):
    source = bake(base, tmp_path / "baked", randomly(EDITED))
    weights = load_file(source / "model.safetensors")
    key = "model.layers.0.self_attn.q_proj.bias"
    save_file({**weights, key: torch.zeros(32)}, source / "model.safetensors")
    assert import_baked(source, resolve(str(base), dtype="float32")).heads == EDITED
    save_file({**weights, key: torch.ones(32)}, source / "model.safetensors")
    refuses(source, base, r"layers\.0\.self_attn\.q_proj\.bias: got a bias that the base lacks")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda bias: torch.full_like(bias, float("nan")), "got NaN or infinity"),
        (lambda bias: bias[:-1].clone(), r"got shape \(31,\); expected \(32,\)"),
        (lambda bias: bias.to(torch.int8), "got torch.int8; expected weights that are not quantised"),
        (torch.zeros_like, "its biases are those of"),
        (lambda bias: None, r"no model\.layers\.0\.self_attn\.o_proj\.bias among its weights"),
    ],
)
def test_faults_of_the_biases(base, tmp_path, change, fault):
    source = bake(base, tmp_path / "baked", randomly(EDITED))
    rewrite(source, lambda name, tensor: change(tensor) if name.endswith("o_proj.bias") else tensor)
    refuses(source, base, fault)


def test_without_a_base_the_fault_says_what_it_looks_like(base, tmp_path):
    source = bake(base, tmp_path / "baked", randomly(EDITED))
    with pytest.raises(
        LofitError, match=r"layers\.0\.self_attn\.o_proj\.bias, as where offsets are baked in; .*--base"
    ):
        import_checkpoint(source)
    whole = LlamaForCausalLM(LlamaConfig(**{**SHAPE, **TOKENS, "attention_bias": True}))
    whole.save_pretrained(tmp_path / "biased")
    with pytest.raises(LofitError, match="no vectors of heads among its weights"):
        import_checkpoint(tmp_path / "biased")


# ----------------------------------------------------------------------------------------------------------- helpers


def name(layer, kind):
    return f"model.layers.{layer}.self_attn.o_proj.{kind}"


def randomly(heads, head_dim=8):
    generator = torch.Generator().manual_seed(2)
    return {head: torch.randn(head_dim, generator=generator) for head in heads}


def bake(base, folder, values, *, shards="5GB"):
    """The base with the bias W v of each layer, in its own dtype, and a config that has no place for it."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    head_dim = head_layout(model).head_dim
    for layer, block in enumerate(model.model.layers):
        projection = block.self_attn.o_proj
        vector = torch.zeros(projection.in_features)
        for (at, head), value in values.items():
            if at == layer:
                vector[head * head_dim : (head + 1) * head_dim] = value
        projection.bias = torch.nn.Parameter((projection.weight.float() @ vector).to(projection.weight.dtype))
    model.save_pretrained(folder, max_shard_size=shards)
    assert json.loads((folder / "config.json").read_text())["attention_bias"] is False
    return folder


def rewrite(folder, change):
    """Pass the tensors of a folder through `change`, by name; None drops one."""
    file = folder / "model.safetensors"
    changed = {key: change(key, tensor) for key, tensor in load_file(file).items()}
    save_file({key: tensor for key, tensor in changed.items() if tensor is not None}, file, {"format": "pt"})


def difference(base, source, adapter):
    """How far the base with the adapter is from a model with a place for the biases, as a share of the edit."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    reference = LlamaForCausalLM(LlamaConfig.from_pretrained(base, attention_bias=True)).eval()
    weights = {}
    for file in source.glob("*.safetensors"):
        weights |= {key: tensor.float() for key, tensor in load_file(file).items()}
    missing, unexpected = reference.load_state_dict(weights, strict=False)
    assert not unexpected and all(key.endswith(("q_proj.bias", "k_proj.bias", "v_proj.bias")) for key in missing)
    with torch.no_grad():
        for key, parameter in reference.named_parameters():
            if key in missing:
                parameter.zero_()
        wanted, before = reference(INPUT).logits, model(INPUT).logits
        with adapter.attach(model):
            found = model(INPUT).logits
    return (found - wanted).abs().max() / (wanted - before).abs().max()


def refuses(source, base, match):
    with pytest.raises(LofitError, match=match) as caught:
        import_baked(source, resolve(str(base), dtype="float32"))
    assert "\n" not in str(caught.value)
