"""Which place in a checkpoint an adapter's offsets get."""

import copy

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, MistralConfig, Phi3Config, Qwen2Config, SeedOssConfig

from lofit import HeadAdapter, LofitError, head_layout
from lofit.export import bias_sites
from lofit.export.bias_sites import find_home
from lofit.export.engines import Verdict
from tests.families import FAMILIES, SHAPE, TOKENS, build

OWN = [
    *("phi", "opt", "gpt2", "gpt_neox", "gpt_neo", "gpt_bigcode", "bloom", "starcoder2", "gpt_oss", "bart"),
    "recurrent_gemma",
]
SWITCHED = {
    **dict.fromkeys(["falcon, multi-query", "falcon, alibi", "falcon, new decoder"], "bias"),
    **dict.fromkeys(
        ["llama", "llama, 2 kv heads", "llama, 1 kv head", "qwen3", "qwen3_moe", "gemma", "gemma2"], "attention_bias"
    ),
    **dict.fromkeys(
        ["gemma3", "olmo2", "granite", "cohere", "deepseek_v3", "qwen3_next", "olmo_hybrid"], "attention_bias"
    ),
    **dict.fromkeys(["kimi_linear", "bamba", "falcon_h1", "granitemoehybrid"], "attention_bias"),
}
AS_LLAMA = ["qwen2", "phi3"]
BY_VALUES = {"stablelm": "use_qkv_bias", "glm4": None}
NOWHERE = ["mistral", "mixtral", "gptj", "codegen", "mpt", "minimax", "lfm2", "jamba", "nemotron_h"]
ROPE = {"rope_type": "default", "rope_theta": 1e4}
LONG = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
EDITED = [(0, 1), (0, 3), (1, 0), (1, 2)]


def adapter_for(name, *, alike=False):
    """Offsets of some heads, or (`alike`) of all, those of a layer the same."""
    size = FAMILIES[name].head_dim
    if not alike:
        return HeadAdapter(EDITED, offsets=torch.arange(4.0 * size).view(4, size) + 1)
    heads = [(layer, head) for layer in range(2) for head in range(4)]
    return HeadAdapter(heads, offsets=torch.arange(2.0 * size).view(2, size).repeat_interleave(4, dim=0) + 1)


def skeleton(config):
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def home_of(model, adapter=None, engine="transformers"):
    layout = head_layout(model)
    return find_home(model, adapter or HeadAdapter([(0, 1)], torch.ones(1, layout.head_dim)), layout, engine)


def test_every_family_is_accounted_for():
    assert sorted([*OWN, *SWITCHED, *AS_LLAMA, *BY_VALUES, *NOWHERE]) == sorted(FAMILIES)


@pytest.mark.parametrize("name", FAMILIES)
def test_offsets_that_differ_from_head_to_head_go_where_the_family_has_a_place_for_them(name):
    model = build(name, torch.float32)
    if name in NOWHERE or name in BY_VALUES:
        with pytest.raises(
            LofitError, match=r"no place for this adapter .*expected the hooks .*lofit export --to peft"
        ):
            home_of(model, adapter_for(name))
        return
    home = home_of(model, adapter_for(name))
    assert (home.place, home.switch, bool(home.as_llama)) == ("o_proj", SWITCHED.get(name), name in AS_LLAMA)
    assert home.model_type == ("llama" if home.as_llama else model.config.model_type)


@pytest.mark.parametrize("name", BY_VALUES)
def test_offsets_alike_in_a_layer_can_go_through_the_values(name):
    home = home_of(build(name, torch.float32), adapter_for(name, alike=True))
    assert (home.place, home.switch) == ("v_proj", BY_VALUES[name])


@pytest.mark.parametrize("name", NOWHERE)
def test_elsewhere_not_even_those(name):
    with pytest.raises(LofitError, match="no place for this adapter"):
        home_of(build(name, torch.float32), adapter_for(name, alike=True))


@pytest.mark.parametrize("name", FAMILIES)
def test_scales_need_no_place(name):
    adapter = adapter_for(name)
    vectors = {"scales": adapter.offsets, "offsets": torch.zeros_like(adapter.offsets)}
    for given in ({"scales": vectors["scales"]}, vectors, {}):
        home = home_of(build(name, torch.float32), HeadAdapter(EDITED, **given))
        assert (home.place, home.switch, home.as_llama) == ("weights", None, ())


def test_the_option_that_reaches_the_output_projection_is_used():
    config = SeedOssConfig(
        **{
            **SHAPE,
            **TOKENS,
            "head_dim": 8,
            "num_key_value_heads": 2,
            "attention_bias": False,
            "attention_out_bias": False,
        }
    )
    home = home_of(skeleton(config))
    assert home.switch == "attention_out_bias"
    assert home.biased == ("model.layers.0.self_attn.o_proj", "model.layers.1.self_attn.o_proj")


def test_no_option_is_used_that_changes_more_than_biases_of_linear_modules(monkeypatch):
    switched = skeleton(build("llama", torch.float32).config)
    for layer in switched.model.layers:
        layer.self_attn.o_proj = nn.Linear(32, 32, device="meta")
    made = {None: skeleton(build("llama", torch.float32).config), "attention_bias": switched, "mlp_bias": switched}
    monkeypatch.setattr(bias_sites, "_skeleton", lambda model, option: made[option])
    paths = head_layout(switched).projections
    assert bias_sites.config_switch(switched, paths)
    switched.model.norm.register_parameter("bias", nn.Parameter(torch.zeros(32, device="meta")))
    assert bias_sites.config_switch(switched, paths) is None
    del switched.model.norm.bias, switched.model.layers[0].mlp.up_proj
    assert bias_sites.config_switch(switched, paths) is None


# A Llama by another name ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config, changes, home",
    [
        (MistralConfig, {"sliding_window": None}, "llama"),
        (MistralConfig, {"sliding_window": 64}, "llama"),
        (MistralConfig, {"sliding_window": 63}, "window of 63 tokens is shorter than its context of 64"),
        (MistralConfig, {"sliding_window": None, "num_attention_heads": 6, "head_dim": 8}, "6 heads do not divide"),
        (Qwen2Config, {"use_sliding_window": False, "sliding_window": 4}, "llama"),
        (Qwen2Config, {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2}, "llama"),
        (Qwen2Config, {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}, "window of 4 tokens"),
        (Phi3Config, {"sliding_window": 4}, "window of 4 tokens"),
        (Phi3Config, {"rope_parameters": {**ROPE, "partial_rotary_factor": 0.5}}, "rotary embedding is partial"),
        (Phi3Config, {"rope_parameters": {**ROPE, **LONG}}, "rotary embedding is longrope"),
        (Qwen2Config, {"rope_parameters": {**ROPE, "rope_type": "yarn", "factor": 4.0}}, "llama"),
    ],
)
def test_a_decoder_is_taken_for_a_llama_where_it_does_the_same(config, changes, home):
    model = skeleton(config(**{**SHAPE, **TOKENS, "num_key_value_heads": 2, **changes}))
    if home == "llama":
        assert home_of(model).as_llama
    else:
        with pytest.raises(LofitError, match=home):
            home_of(model)


# Through the values ---------------------------------------------------------------------------------------------------


def test_a_qwen_with_a_window_and_a_value_for_each_head_takes_offsets_through_the_values():
    window = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0}
    home = home_of(skeleton(Qwen2Config(**{**SHAPE, **TOKENS, "num_key_value_heads": 4, **window})))
    assert (home.place, home.model_type, home.switch) == ("v_proj", "qwen2", None)


@pytest.mark.parametrize(
    "spoil, reason",
    [
        (lambda layer: layer.register_parameter("sinks", nn.Parameter(torch.zeros(4))), "does not just average"),
        (lambda layer: layer.register_module("v_norm", nn.Identity()), "does not just average"),
        (lambda layer: layer.register_module("q_proj", nn.Linear(32, 128)), "does not just average"),
        (lambda layer: setattr(layer, "attention_dropout", 0.1), "attention dropout"),
        (lambda layer: setattr(layer, "attention_dropout", nn.Dropout(0.1)), "attention dropout"),
    ],
)
def test_nothing_goes_through_values_that_are_not_just_averaged(spoil, reason):
    model = copy.deepcopy(build("glm4", torch.float32))
    assert home_of(model, adapter_for("glm4", alike=True)).place == "v_proj"
    spoil(model.model.layers[1].self_attn)
    with pytest.raises(LofitError, match=reason):
        home_of(model, adapter_for("glm4", alike=True))


def test_scales_count_where_heads_share_their_values():
    """(1 + A) (z + b) is (1 + A) z + v for one b only if v / (1 + A) is the same in the heads of a group."""
    model = build("glm4", torch.float32)
    size = FAMILIES["glm4"].head_dim
    heads, ones = [(0, head) for head in range(4)], torch.ones(4, size)
    factors = torch.tensor([1.0, 2.0, 4.0, 0.5])[:, None] * ones
    assert home_of(model, HeadAdapter(heads, 3 * factors, factors - 1)).place == "v_proj"
    assert home_of(model, HeadAdapter(heads, 3 * ones, ones)).place == "v_proj"
    for offsets, scales in ((3 * ones, factors - 1), (ones, -ones)):
        with pytest.raises(LofitError, match="share their values have different offsets"):
            home_of(model, HeadAdapter(heads, offsets, scales))


# Engines --------------------------------------------------------------------------------------------------------------


def test_what_an_engine_loses_is_refused_with_its_reason():
    with pytest.raises(LofitError, match=r"the o_proj of qwen3 in vllm: drops, source: .*expected the hooks"):
        home_of(build("qwen3", torch.float32), adapter_for("qwen3"), "vllm")


def test_for_llama_cpp_a_qwen_becomes_a_llama():
    assert home_of(build("qwen2", torch.float32), engine="llama.cpp").as_llama


@pytest.mark.parametrize("values, place", [("keeps", "v_proj"), ("drops", None), ("unknown", None)])
def test_where_an_engine_loses_the_first_home_the_next_must_be_known_to_last(monkeypatch, values, place):
    def verdict(kind, engine, home):
        return Verdict(kind, engine, "1", home, values if home == "v_proj" else "drops", "source", "so it is")

    monkeypatch.setattr(bias_sites, "verdict", verdict)
    adapter = adapter_for("qwen3", alike=True)
    if place:
        assert home_of(build("qwen3", torch.float32), adapter, "vllm").place == place
    else:
        with pytest.raises(LofitError, match=f"v_proj of qwen3 in vllm: {values}"):
            home_of(build("qwen3", torch.float32), adapter, "vllm")


def test_an_architecture_that_nobody_has_looked_at_is_let_through(monkeypatch):
    monkeypatch.setattr(
        bias_sites, "verdict", lambda kind, engine, home: Verdict(kind, engine, "1", home, "unknown", "", "")
    )
    assert home_of(build("llama", torch.float32), engine="vllm").place == "o_proj"


# What cannot be folded ------------------------------------------------------------------------------------------------


def test_a_projection_that_shares_its_weight_is_refused():
    model = copy.deepcopy(build("llama", torch.float32))
    model.model.layers[1].self_attn.o_proj.weight = model.model.layers[0].self_attn.o_proj.weight
    with pytest.raises(LofitError, match=r"layers.0.self_attn.o_proj shares its weight with another module"):
        home_of(model)


def test_a_projection_that_is_not_linear_is_refused():
    model = copy.deepcopy(build("llama", torch.float32))
    layout = head_layout(model)
    model.model.layers[0].self_attn.o_proj = nn.Identity()
    with pytest.raises(LofitError, match=r"o_proj is a Identity; expected a linear module"):
        find_home(model, HeadAdapter([(0, 1)], torch.ones(1, 8)), layout)


def test_an_adapter_for_another_model_is_refused():
    with pytest.raises(LofitError, match=r"\(5, 0\) is not in the model"):
        home_of(build("llama", torch.float32), HeadAdapter([(5, 0)], torch.ones(1, 8)))
