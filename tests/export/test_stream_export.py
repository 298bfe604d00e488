"""Offsets of the residual stream as biases of MLPs: in memory, from disk and by the command, against the hooks."""

import copy
import json
import re
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from peft import LoraConfig
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, GraniteConfig, MistralConfig, Qwen2Config

from lofit import HeadAdapter, LofitError, cli, head_layout, merge
from lofit.adapters.base import Adapter
from lofit.adapters.provenance import Provenance
from lofit.adapters.stream import StreamAdapter
from lofit.export.stream_sites import block_ends, check_reach, find_stream_home
from lofit.models.identity import folder_hash
from lofit.models.quantisation import keep_differentiable
from tests.families import FAMILIES, SHAPE, TOKENS, VOCABULARY, assert_unchanged, build, hooked, logits

OWN = [
    *("phi", "opt", "gpt2", "gpt_neox", "gpt_neo", "gpt_bigcode", "gptj", "codegen", "bloom", "starcoder2"),
    "recurrent_gemma",
]
SWITCHED = {
    **dict.fromkeys(["llama", "llama, 2 kv heads", "llama, 1 kv head", "granite", "bamba"], "mlp_bias"),
    **dict.fromkeys(["falcon, multi-query", "falcon, alibi", "falcon, new decoder"], "bias"),
}
AS_LLAMA = {"qwen2": ("attention_bias", "mlp_bias"), "phi3": ("mlp_bias",)}
NO_BIAS = "no option of its config gives .* a bias"
NO_LINEAR = "has no linear module at the end of an MLP"
NOWHERE = {
    **dict.fromkeys(["mistral", "qwen3", "gemma", "gemma2", "gemma3", "olmo2", "mpt", "cohere", "stablelm"], NO_BIAS),
    **dict.fromkeys(["glm4", "deepseek_v3", "qwen3_next", "olmo_hybrid", "lfm2", "kimi_linear"], NO_BIAS),
    **dict.fromkeys(["mixtral", "qwen3_moe", "gpt_oss", "minimax", "jamba", "nemotron_h"], NO_LINEAR),
    **dict.fromkeys(["bart", "falcon_h1"], "does not reach the output of .* as it is"),
    "granitemoehybrid": NO_BIAS,
}


@pytest.fixture
def tokens():
    return torch.randint(3, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(1))


def adapter_for(layers=(0, 1)):
    return StreamAdapter(layers, torch.randn(len(layers), 32, generator=torch.Generator().manual_seed(2)))


# Every family ---------------------------------------------------------------------------------------------------------


def test_every_family_is_accounted_for():
    assert sorted([*OWN, *SWITCHED, *AS_LLAMA, *NOWHERE]) == sorted(FAMILIES)


@pytest.mark.parametrize("name", [*OWN, *SWITCHED, *AS_LLAMA])
def test_a_merged_model_does_what_the_hooks_do_in_memory_and_from_disk(name, tokens, tmp_path):
    model, adapter = copy.deepcopy(build(name, torch.float32)), adapter_for([1, 0])
    home = find_stream_home(model, adapter, head_layout(model))
    assert (home.place, home.switch, home.as_llama) == ("down_proj", SWITCHED.get(name), AS_LLAMA.get(name, ()))
    base, edited = logits(model, tokens), hooked(model, adapter, tokens)
    merged = merge(model, adapter)
    effect = (edited - base).abs().max()
    assert effect > 0.1
    assert (logits(merged, tokens) - edited).abs().max() < 1e-4 * effect
    assert not any(module._forward_hooks for module in merged.modules())
    merged.save_pretrained(tmp_path)
    read, loading = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(loading.values())
    assert (logits(read, tokens) - edited).abs().max() < 1e-4 * effect


@pytest.mark.parametrize("name", NOWHERE)
def test_a_family_without_a_place_is_refused_in_words_and_stays_as_it_was(name):
    model = copy.deepcopy(build(name, torch.float32))
    reason = rf"no place for this adapter \(.*{NOWHERE[name]}.*\); expected the hooks"
    with pytest.raises(LofitError, match=reason) as told:
        merge(model, adapter_for())
    assert "\n" not in str(told.value)
    assert_unchanged(model, name)


@pytest.mark.parametrize("name", ["gemma2", "gemma3", "olmo2", "bart", "qwen3_next"])
def test_a_norm_or_a_gate_after_the_mlp_is_seen(name):
    model = build(name, torch.float32)
    layout = head_layout(model)
    with pytest.raises(LofitError, match=r"does not reach the output of .* as it is"):
        check_reach(model, layout, block_ends(model, layout, [0]))


@pytest.mark.parametrize("name", ["gptj", "stablelm", "cohere", "gemma", "qwen3", "mpt"])
def test_a_parallel_residual_or_a_missing_bias_alone_is_no_obstacle_on_the_way(name):
    model = build(name, torch.float32)
    layout = head_layout(model)
    check_reach(model, layout, block_ends(model, layout, [0, 1]))


# The weights ----------------------------------------------------------------------------------------------------------


def test_biases_of_the_edited_layers_change_and_nothing_else_does():
    model, adapter = copy.deepcopy(build("gpt2", torch.float32)), adapter_for([1])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    after = merge(model, adapter).state_dict()
    changed = [name for name in after if not torch.equal(after[name], before[name])]
    assert changed == ["transformer.h.1.mlp.c_proj.bias"]
    torch.testing.assert_close(after[changed[0]], before[changed[0]] + adapter.offsets[0], rtol=0, atol=1e-6)


def test_biases_that_are_switched_on_besides_are_zero():
    before, adapter = build("llama", torch.float32), adapter_for([1])
    merged = merge(copy.deepcopy(before), adapter)
    new = {name: value for name, value in merged.state_dict().items() if name not in before.state_dict()}
    assert sorted(new) == sorted(
        f"model.layers.{layer}.mlp.{part}_proj.bias" for layer in (0, 1) for part in ("gate", "up", "down")
    )
    assert torch.equal(new.pop("model.layers.1.mlp.down_proj.bias"), adapter.offsets[0])
    assert not any(value.any() for value in new.values())
    assert merged.config.mlp_bias and not merged.config.attention_bias


def test_granites_multiplier_is_divided_out(tokens, tmp_path):
    torch.manual_seed(0)
    config = GraniteConfig(**SHAPE, **TOKENS, residual_multiplier=0.22, embedding_multiplier=12.0, logits_scaling=8.0)
    model, adapter = AutoModelForCausalLM.from_config(config).eval(), adapter_for()
    base, edited = logits(model, tokens), hooked(model, adapter, tokens)
    merge(model, adapter).save_pretrained(tmp_path)
    read = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(read.model.layers[0].mlp.down_proj.bias, adapter.offsets[0] / 0.22)
    assert (logits(read, tokens) - edited).abs().max() < 1e-4 * (edited - base).abs().max()


@pytest.mark.parametrize("name", ["llama, 2 kv heads", "phi", "gpt2"])
def test_in_bfloat16_a_merge_differs_by_rounding_alone(name, tokens, tmp_path):
    build(name, torch.float32).save_pretrained(tmp_path / "base")
    model, adapter = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.bfloat16), adapter_for()
    base, edited = logits(model, tokens), hooked(model, adapter, tokens)
    merged = merge(model, adapter)
    assert {weight.dtype for weight in merged.parameters()} == {torch.bfloat16}
    assert (logits(merged, tokens) - edited).abs().max() < 0.1 * (edited - base).abs().max()


def test_a_mistral_becomes_a_llama_with_biases_of_its_mlps_alone(tokens, tmp_path):
    torch.manual_seed(0)
    config = MistralConfig(**SHAPE, **TOKENS, num_key_value_heads=2, sliding_window=None, initializer_range=0.2)
    model, adapter = AutoModelForCausalLM.from_config(config).eval(), adapter_for()
    base, edited = logits(model, tokens), hooked(model, adapter, tokens)
    merge(model, adapter).save_pretrained(tmp_path)
    read, loading = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(loading.values())
    assert type(read).__name__ == "LlamaForCausalLM" and (read.config.mlp_bias, read.config.attention_bias) == (
        True,
        False,
    )
    assert (logits(read, tokens) - edited).abs().max() < 1e-4 * (edited - base).abs().max()


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2"])
def test_what_was_merged_of_heads_stays(name, tokens):
    model = copy.deepcopy(build(name, torch.float32))
    heads, stream = HeadAdapter([(0, 1), (1, 2)], torch.ones(2, 8)), adapter_for()
    base = logits(model, tokens)
    with heads.attach(model):
        edited = hooked(model, stream, tokens)
    for order in ((heads, stream), (stream, heads)):
        merged = copy.deepcopy(build(name, torch.float32))
        for adapter in order:
            merged = merge(merged, adapter)
        assert (logits(merged, tokens) - edited).abs().max() < 1e-4 * (edited - base).abs().max()


# What cannot be merged ------------------------------------------------------------------------------------------------


def test_an_idle_adapter_changes_nothing():
    model = copy.deepcopy(build("mistral", torch.float32))
    assert merge(model, StreamAdapter([0], torch.zeros(1, 32))) is model
    assert_unchanged(model, "mistral")


def test_an_attached_adapter_is_not_merged_on_top_of_itself():
    model, adapter = copy.deepcopy(build("llama", torch.float32)), adapter_for([0])
    with adapter.attach(model), pytest.raises(LofitError, match="got a hook on a layer; expected a model without"):
        merge(model, adapter_for([1]))
    assert_unchanged(model, "llama")


def test_a_model_with_peft_adapters_is_refused():
    model = copy.deepcopy(build("llama", torch.float32))
    model.add_adapter(LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(LofitError, match="got a model with PEFT adapters loaded; expected one without"):
        merge(model, adapter_for())


def test_an_offloaded_model_is_refused():
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(build("llama", torch.float32).config)
    with pytest.raises(LofitError, match="its weight is offloaded; expected a model that is wholly in memory"):
        merge(model, adapter_for())


def test_what_does_not_fit_is_refused():
    model = copy.deepcopy(build("llama", torch.float32))
    with pytest.raises(LofitError, match="adapter layer 2 is not in the model"):
        merge(model, adapter_for([2]))
    with pytest.raises(LofitError, match="adapter offsets have 16 numbers; expected the model's 32"):
        merge(model, StreamAdapter([0], torch.ones(1, 16)))
    assert_unchanged(model, "llama")


def test_a_kind_that_no_weights_can_hold_is_refused():
    class Elsewhere(Adapter):
        kind = "elsewhere"

    with pytest.raises(LofitError, match="adapter: got one of kind elsewhere, which runs in lofit alone"):
        merge(copy.deepcopy(build("llama", torch.float32)), Elsewhere())


# Quantised bases ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"load_in_4bit": True}, {"load_in_8bit": True}], ids=["nf4", "int8"])
def test_a_quantised_base_takes_offsets_and_keeps_its_weights(options, tokens, tmp_path):
    pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    wide = {"hidden_size": 128, "intermediate_size": 256, "num_key_value_heads": 2, "initializer_range": 0.15}
    AutoModelForCausalLM.from_config(Qwen2Config(**{**SHAPE, **TOKENS, **wide})).save_pretrained(tmp_path / "base")
    quantization = BitsAndBytesConfig(**options, bnb_4bit_compute_dtype=torch.float32)
    load = {"quantization_config": quantization, "device_map": {"": "cpu"}}
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", **load).eval()
    if "load_in_4bit" in options:
        keep_differentiable(model)
    adapter = StreamAdapter([0, 1], torch.randn(2, 128, generator=torch.Generator().manual_seed(2)))
    base, edited = logits(model, tokens), hooked(model, adapter, tokens)
    before = model.model.layers[0].mlp.down_proj.weight.clone()
    merged = merge(model, adapter)
    assert torch.equal(merged.model.layers[0].mlp.down_proj.weight, before)
    merged.save_pretrained(tmp_path / "merged")
    read, loading = AutoModelForCausalLM.from_pretrained(
        tmp_path / "merged", output_loading_info=True, device_map={"": "cpu"}
    )
    assert not any(loading.values())
    if "load_in_4bit" in options:
        keep_differentiable(read)
    assert (logits(read, tokens) - edited).abs().max() < 0.02 * (edited - base).abs().max()


# The command ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def workplace(tmp_path, monkeypatch, model, make_tokenizer):
    """A base model called `tiny`, and an adapter of it called `tuned`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    make_tokenizer().save_pretrained("tiny")
    model.save_pretrained("tiny")
    provenance = Provenance.made_now("tiny", folder_hash(Path("tiny")), head_layout(model), training={"task": "cats"})
    adapter = StreamAdapter([1, 0], torch.randn(2, 32), provenance=provenance)
    adapter.save_pretrained("tuned")
    return adapter


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    return ended.value.code


def test_the_command_writes_what_another_process_has_read_back(workplace, model, tokens, capsys):
    assert run("export", "tuned", "out", "--to", "hf", "--device", "cpu") in (0, None)
    assert re.match(r"out: read back by transformers \S+ in a process without lofit: largest", capsys.readouterr().out)
    read = AutoModelForCausalLM.from_pretrained("out")
    wanted = hooked(model, workplace, tokens)
    torch.testing.assert_close(logits(read, tokens), wanted, rtol=1e-4, atol=1e-4)
    assert (wanted - logits(model, tokens)).abs().max() > 0.1
    assert json.loads(Path("out/config.json").read_text())["mlp_bias"] is True
    card = ModelCard.load("out/README.md").text
    assert "adapted by offsets of its residual stream. The offsets are in the biases of the last projections of" in card
    assert "`mlp_bias` in config.json switches these on" in card and "| layer | norm of the offset |" in card
    assert "heads' outputs" not in card


@pytest.mark.parametrize("to", ["peft", "peft-lora"])
def test_the_command_refuses_peft_in_words(workplace, to):
    assert (
        run("export", "tuned", "out", "--to", to) == f"error: --to: got {to} for an adapter of kind stream; expected hf"
    )
    assert not Path("out").exists()


def test_an_export_that_loses_a_layer_is_found_out(workplace, monkeypatch):
    """What is folded in is one layer of two; the other process sees it."""
    from lofit.export import checkpoint

    fold = checkpoint.fold
    monkeypatch.setattr(
        checkpoint, "fold", lambda model, adapter, *more: fold(model, StreamAdapter([0], adapter.offsets[:1]), *more)
    )
    assert "differs from the model with the adapter attached by" in run("export", "tuned", "out", "--to", "hf")
    assert not Path("out").exists()
