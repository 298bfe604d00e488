"""Adapters folded into weights, in memory and read back from disk, against the hooks and against loops over heads."""

import copy

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from lofit import HeadAdapter, LofitError, head_layout
from lofit.export.bias_sites import find_home
from lofit.export.merge import merge
from lofit.models.base import keep_differentiable
from tests.families import FAMILIES, HEADS, LAYERS, SHAPE, TOKENS, VOCABULARY, assert_unchanged, build, hooked, logits

EDITED = [(0, 1), (0, 3), (1, 0), (1, 2)]
NOWHERE = ["mistral", "mixtral", "gptj", "codegen", "mpt", "minimax", "lfm2", "jamba", "nemotron_h"]
ROPE = {"rope_theta": 5e3}
BY_VALUES = ["stablelm", "glm4"]


@pytest.fixture
def tokens():
    return torch.randint(3, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(1))


# Every family ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vectors", ["scales", "offsets", "both"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_merged_model_does_what_the_hooks_do_in_memory_and_from_disk(name, vectors, tokens, tmp_path):
    if name in NOWHERE and vectors != "scales":
        pytest.skip("no place for offsets: see test_bias_sites.py")
    model, adapter = copy.deepcopy(build(name, torch.float32)), adapter_for(name, vectors)
    base, edited = logits(model, tokens), hooked(model, adapter, tokens)
    merged = merge(model, adapter)
    effect = (edited - base).abs().max()
    assert effect > 0.01
    assert (logits(merged, tokens) - edited).abs().max() < 1e-4 * effect
    merged.save_pretrained(tmp_path)
    read, loading = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(loading.values())
    assert (logits(read, tokens) - edited).abs().max() < 1e-4 * effect


@pytest.mark.parametrize("name", FAMILIES)
def test_the_weights_are_those_of_a_loop_over_heads(name):
    if name in NOWHERE or name in BY_VALUES:
        pytest.skip("no output projection with a bias")
    family, before = FAMILIES[name], build(name, torch.float32)
    adapter = adapter_for(name, "both")
    merged = merge(copy.deepcopy(before), adapter)
    for layer, path in enumerate(family.projections):
        old, new = before.get_submodule(path), merged.get_submodule(path)
        transposed = family.config == "GPT2"
        weight = (old.weight.T if transposed else old.weight).double().clone()
        bias = torch.zeros(len(weight)).double() if old.bias is None else old.bias.double().clone()
        for (at, head), scale, offset in zip(adapter.heads, adapter.scales, adapter.offsets, strict=True):
            if at == layer:
                columns = slice(head * family.head_dim, (head + 1) * family.head_dim)
                bias += weight[:, columns] @ offset.double()
                weight[:, columns] *= 1 + scale.double()
        torch.testing.assert_close((new.weight.T if transposed else new.weight).double(), weight, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(new.bias.double(), bias, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["llama, 2 kv heads", "qwen2", "phi3", "gpt2", "stablelm"])
def test_in_bfloat16_a_merge_differs_by_rounding_alone(name, tokens, tmp_path):
    # As users get it: a model cast as a whole would have its rotary embedding cast too.
    build(name, torch.float32).save_pretrained(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.bfloat16)
    adapter = adapter_for(name, "both")
    base, edited = logits(model, tokens), hooked(model, adapter, tokens)
    merged = merge(model, adapter)
    assert {weight.dtype for weight in merged.parameters()} == {torch.bfloat16}
    merged.save_pretrained(tmp_path)
    read = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert torch.equal(logits(read, tokens), logits(merged, tokens))
    assert (logits(read, tokens) - edited).abs().max() < 0.05 * (edited - base).abs().max()


def test_sums_are_rounded_once():
    model, adapter = copy.deepcopy(build("gpt2", torch.bfloat16)), adapter_for("gpt2", "offsets")
    old = copy.deepcopy(model.transformer.h[0].attn.c_proj)
    new = merge(model, adapter).transformer.h[0].attn.c_proj
    vector = torch.zeros(HEADS, 8).double()
    vector[[1, 3]] = adapter.offsets[:2].detach().double()
    exact = old.bias.double() + vector.flatten() @ old.weight.double()
    assert ((new.bias.double() - exact).abs() <= exact.abs() * 2**-8).all()
    assert (new.bias.double() - exact).abs().max() > 0


# What stays as it was -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", [HeadAdapter([]), HeadAdapter([(0, 1)]), HeadAdapter([(0, 1)], torch.zeros(1, 8))])
def test_an_adapter_without_effect_changes_nothing(adapter):
    model = copy.deepcopy(build("qwen2", torch.float32))
    merged = merge(model, adapter)
    assert merged is model
    assert_unchanged(merged, "qwen2")


def test_a_refused_merge_changes_nothing():
    model = copy.deepcopy(build("mistral", torch.float32))
    with pytest.raises(LofitError, match="no place for this adapter"):
        merge(model, adapter_for("mistral", "both"))
    assert_unchanged(model, "mistral")


def test_weights_that_no_head_belongs_to_are_bit_for_bit_the_same():
    before = build("phi3", torch.float32).state_dict()
    after = merge(copy.deepcopy(build("phi3", torch.float32)), adapter_for("phi3", "both")).state_dict()
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        for fused, parts in (("self_attn.qkv", "qkv"), ("mlp.gate_up", ("gate", "up"))):
            owner = fused.partition(".")[0]
            split = torch.cat([after[f"{prefix}.{owner}.{part}_proj.weight"] for part in parts])
            assert torch.equal(split, before[f"{prefix}.{fused}_proj.weight"])
        for part in "qkv":
            assert not after[f"{prefix}.self_attn.{part}_proj.bias"].any()
    for name in before.keys() & after.keys():
        assert name.endswith("o_proj.weight") or torch.equal(after[name], before[name])


# A Llama by another name ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config, changes",
    [
        ("Mistral", {"sliding_window": None, "head_dim": 16, "num_key_value_heads": 1}),
        ("Mistral", {"sliding_window": 64, "tie_word_embeddings": True, "rms_norm_eps": 1e-3, "hidden_act": "gelu"}),
        ("Qwen2", {"rope_parameters": {**ROPE, "rope_type": "yarn", "factor": 4.0}}),
        ("Qwen2", {"rope_parameters": {**ROPE, "rope_type": "dynamic", "factor": 2.0}, "eos_token_id": [2, 5]}),
        ("Phi3", {"tie_word_embeddings": True, "num_key_value_heads": 2, "rms_norm_eps": 1e-3}),
    ],
)
def test_a_llama_by_another_name_keeps_what_it_is_made_of(config, changes, tmp_path):
    torch.manual_seed(0)
    config = getattr(transformers, f"{config}Config")(**{**SHAPE, **TOKENS, "num_key_value_heads": 2, **changes})
    model = AutoModelForCausalLM.from_config(config).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    model.generation_config.temperature = 0.7
    model.generation_config.do_sample = True
    row = torch.arange(60)[None] + 3
    layout = head_layout(model)
    adapter = HeadAdapter(EDITED, torch.randn(4, layout.head_dim))
    base, edited = logits(model, row), hooked(model, adapter, row)
    merge(model, adapter).save_pretrained(tmp_path)
    llama = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(llama).__name__ == "LlamaForCausalLM" and llama.config.attention_bias
    assert (logits(llama, row) - edited).abs().max() < 1e-4 * (edited - base).abs().max()
    for name in ("tie_word_embeddings", "pad_token_id", "bos_token_id", "eos_token_id", "max_position_embeddings"):
        assert getattr(llama.config, name) == getattr(config, name)
    assert (llama.lm_head.weight is llama.model.embed_tokens.weight) == config.tie_word_embeddings
    assert (llama.generation_config.temperature, llama.generation_config.do_sample) == (0.7, True)


def test_a_relabelled_model_generates_as_the_hooked_one_does(tokens):
    model, adapter = copy.deepcopy(build("qwen2", torch.float32)), adapter_for("qwen2", "both")
    new = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    plain = model.generate(tokens, **new)
    with adapter.attach(model):
        edited = model.generate(tokens, **new)
    merged = merge(model, adapter)
    assert not any(module.training for module in merged.modules())
    assert torch.equal(merged.generate(tokens, **new), edited)
    assert not torch.equal(plain, edited)


def test_the_option_of_a_nested_config_is_the_decoders(tokens, tmp_path):
    torch.manual_seed(0)
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Gemma3Config(
        text_config={**SHAPE, **TOKENS, "head_dim": 16, "num_key_value_heads": 2, "sliding_window": 4},
        vision_config={**vision, "image_size": 32, "patch_size": 16},
        mm_tokens_per_image=4,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    adapter = HeadAdapter(EDITED, torch.randn(4, 16))
    base, edited = logits(model, tokens), hooked(model, adapter, tokens)
    merge(model, adapter).save_pretrained(tmp_path)
    read, loading = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(loading.values())
    assert (read.config.text_config.attention_bias, hasattr(read.config, "attention_bias")) == (True, False)
    assert (logits(read, tokens) - edited).abs().max() < 1e-4 * (edited - base).abs().max()


# Through the values ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vectors", ["offsets", "both"])
def test_each_group_of_heads_gets_the_offset_of_its_heads(vectors, tokens):
    """Groups of a layer differ; the heads of a group need the same v / (1 + A), here both are the same."""
    model = copy.deepcopy(build("glm4", torch.float32))
    pairs = torch.randn(2, LAYERS * 2, 16, generator=torch.Generator().manual_seed(3)).repeat_interleave(2, dim=1)
    heads = [(layer, head) for layer in range(LAYERS) for head in range(HEADS)]
    adapter = HeadAdapter(heads, pairs[0], pairs[1] / 4 if vectors == "both" else None)
    assert find_home(model, adapter, head_layout(model)).place == "v_proj"
    base, edited = logits(model, tokens), hooked(model, adapter, tokens)
    assert (logits(merge(model, adapter), tokens) - edited).abs().max() < 1e-4 * (edited - base).abs().max()


# What cannot be merged ------------------------------------------------------------------------------------------------


def test_an_attached_adapter_is_not_merged_on_top_of_itself():
    model, adapter = copy.deepcopy(build("llama", torch.float32)), adapter_for("llama", "offsets")
    with adapter.attach(model), pytest.raises(LofitError, match="got a hook on a projection; expected a model without"):
        merge(model, adapter)
    assert_unchanged(model, "llama")


def test_an_adapter_attached_to_another_layer_is_seen_too():
    model = copy.deepcopy(build("qwen2", torch.float32))
    layer_0, layer_1 = (HeadAdapter([(layer, 0)], torch.ones(1, 8)) for layer in (0, 1))
    with layer_0.attach(model), pytest.raises(LofitError, match="got a hook on a projection"):
        merge(model, layer_1)
    assert_unchanged(model, "qwen2")


@pytest.mark.parametrize("target", ["up_proj", "o_proj", "q_proj"])
@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_a_model_with_peft_adapters_is_refused(name, target):
    model = copy.deepcopy(build(name, torch.float32))
    model.add_adapter(LoraConfig(target_modules=[target]))
    with pytest.raises(LofitError, match="got a model with PEFT adapters loaded; expected one without"):
        merge(model, adapter_for(name, "offsets"))
    assert model.config.get_text_config().to_dict().get("attention_bias") is not True


@pytest.mark.parametrize(
    "wrap", [torch.compile, lambda model: get_peft_model(model, LoraConfig(target_modules=["q_proj"]))]
)
def test_a_wrapped_model_is_refused(wrap):
    model = wrap(copy.deepcopy(build("llama", torch.float32)))
    layout = head_layout(build("llama", torch.float32))
    with pytest.raises(LofitError, match="got a wrapped model; expected the model of transformers itself"):
        merge(model, adapter_for("llama", "offsets"), layout=layout)


def test_a_decoder_without_its_head_is_no_llama_by_another_name():
    model = copy.deepcopy(build("qwen2", torch.float32)).model
    with pytest.raises(LofitError, match="no place for this adapter"):
        merge(model, adapter_for("qwen2", "offsets"))


def test_what_a_relabelled_model_leaves_behind_says_so(tokens, tmp_path):
    model = copy.deepcopy(build("qwen2", torch.float32))
    merged = merge(model, adapter_for("qwen2", "offsets"))
    for use in (lambda: model(tokens), lambda: model.save_pretrained(tmp_path)):
        with pytest.raises(LofitError, match="expected the model that `merge` returned"):
            use()
    merged(tokens)


def test_an_offloaded_model_is_refused():
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(build("llama", torch.float32).config)
    with pytest.raises(LofitError, match="its weight is offloaded; expected a model that is wholly in memory"):
        merge(model, adapter_for("llama", "offsets"))


# Quantised bases ------------------------------------------------------------------------------------------------------

NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32}
INT8 = {"load_in_8bit": True}
NEAR = {"nf4": 1e-5, "int8": 0.15}
"""Share of the effect. LLM.int8 rounds the heads' outputs too, otherwise with an offset than without."""


@pytest.mark.parametrize("kind", ["nf4", "int8"])
@pytest.mark.parametrize("name", ["llama, 2 kv heads", "qwen2", "gpt2", "glm4"])
def test_a_quantised_base_takes_offsets_and_keeps_its_weights(name, kind, quantised, tokens, tmp_path):
    model = quantised(name, kind)
    if kind == "nf4":
        keep_differentiable(model)
    heads, size = [(layer, head) for layer in range(LAYERS) for head in range(HEADS)], head_layout(model).head_dim
    offsets = torch.randn(LAYERS, size, generator=torch.Generator().manual_seed(3)).repeat_interleave(HEADS, dim=0)
    adapter = HeadAdapter(heads, offsets)
    base, edited = logits(model, tokens), hooked(model, adapter, tokens)
    projections = head_layout(model).projections
    before = [model.get_submodule(path).weight.clone() for path in projections]
    merged = merge(model, adapter)
    effect = (edited - base).abs().max()
    assert all(
        torch.equal(merged.get_submodule(path).weight, old) for path, old in zip(projections, before, strict=True)
    )
    assert (logits(merged, tokens) - edited).abs().max() < NEAR[kind] * effect
    merged.save_pretrained(tmp_path)
    read, loading = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True, device_map={"": "cpu"})
    assert not any(loading.values())
    if kind == "nf4":
        keep_differentiable(read)
    assert (logits(read, tokens) - edited).abs().max() < NEAR[kind] * effect
    stored = {type(read.get_submodule(path).weight).__name__ for path in projections}
    assert stored == {"Params4bit" if kind == "nf4" else "Int8Params"}


@pytest.mark.parametrize("name", ["llama, 2 kv heads", "qwen2"])
def test_a_merged_4_bit_model_can_be_run_before_it_is_saved(name, quantised, tokens, tmp_path):
    """bitsandbytes may repack weights in a pass on the CPU, and saves them wrong afterwards."""
    merged = merge(quantised(name, "nf4"), HeadAdapter([(0, 1)], torch.ones(1, 32)))
    before = logits(merged, tokens)
    merged.save_pretrained(tmp_path)
    assert torch.equal(logits(merged, tokens), before)
    read = AutoModelForCausalLM.from_pretrained(tmp_path, device_map={"": "cpu"})
    keep_differentiable(read)
    torch.testing.assert_close(logits(read, tokens), before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind, module", [("nf4", "Linear4bit"), ("int8", "Linear8bitLt")])
def test_scales_do_not_go_into_a_quantised_weight(kind, module, quantised):
    with pytest.raises(LofitError, match=rf"o_proj is quantised \({module}\), and scales .* `lofit export --to peft`"):
        merge(quantised("llama, 2 kv heads", kind), HeadAdapter([(0, 1)], scales=torch.ones(1, 32)))


def test_a_quantised_fused_projection_is_not_split(quantised):
    with pytest.raises(LofitError, match="qkv_proj is quantised and cannot be split"):
        merge(quantised("phi3", "nf4"), HeadAdapter([(0, 1)], torch.ones(1, 32)))


def test_weights_that_bitsandbytes_has_repacked_are_refused(quantised):
    model = quantised("llama, 2 kv heads", "nf4")
    model.model.layers[0].mlp.up_proj.weight.quant_state.packing_format_for_cpu = True
    with pytest.raises(
        LofitError, match=r"up_proj.weight: bitsandbytes has repacked it .*expected a model that has made"
    ):
        merge(model, HeadAdapter([(0, 1)], torch.ones(1, 32)))


# ---------------------------------------------------------------------------------------------------------- helpers


@pytest.fixture
def quantised(tmp_path):
    """A family with heads of 32 numbers, quantised while it is read from disk."""
    pytest.importorskip("bitsandbytes")

    def load(name, kind):
        family = FAMILIES[name]
        wide = {"hidden_size": 128, "intermediate_size": 256}
        changes = {**SHAPE, **TOKENS, **family.changes, **wide, "head_dim": 32}
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(getattr(transformers, f"{family.config}Config")(**changes))
        for weight in model.parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=0.15)
        model.save_pretrained(tmp_path / "base")
        quantization = BitsAndBytesConfig(**(NF4 if kind == "nf4" else INT8))
        options = {"quantization_config": quantization, "device_map": {"": "cpu"}}
        return AutoModelForCausalLM.from_pretrained(tmp_path / "base", **options).eval()

    return load


def adapter_for(name, vectors):
    """Vectors of some heads; where values are to carry the offsets, of all heads, those of a layer the same."""
    size, generator = FAMILIES[name].head_dim, torch.Generator().manual_seed(3)
    if name in BY_VALUES:
        heads = [(layer, head) for layer in range(LAYERS) for head in range(HEADS)]
        values = torch.randn(2, LAYERS, size, generator=generator).repeat_interleave(HEADS, dim=1)
    else:
        heads, values = EDITED, torch.randn(2, len(EDITED), size, generator=generator)
    scales, offsets = values[0] / 2, values[1]
    return HeadAdapter(heads, None if vectors == "scales" else offsets, None if vectors == "offsets" else scales)
