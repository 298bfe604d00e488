"""Where the heads are: what is found, what is left out and what is refused. The families are in test_decoders.py."""

import re

import pytest
import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from lofit import HeadAdapter, LofitError, head_layout
from lofit.models.layout import input_width
from tests.families import SHAPE, TOKENS

BART = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4}
CLIP = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
PICTURE = {**CLIP, "image_size": 8, "patch_size": 4}


def make(kind: str, **changes) -> nn.Module:
    """A tiny model on the meta device."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config(kind, **changes))


def config(kind: str, **changes):
    return getattr(transformers, f"{kind}Config")(**{**SHAPE, **TOKENS, **changes})


# ------------------------------------------------------------------------------------------------ what is left out


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("LlavaForConditionalGeneration", {"vision_config": transformers.CLIPVisionConfig(**PICTURE)}),
        (
            "Gemma3ForConditionalGeneration",
            {"vision_config": transformers.SiglipVisionConfig(**PICTURE), "mm_tokens_per_image": 1},
        ),
    ],
)
def test_only_the_text_decoder_of_a_model_with_a_vision_tower_has_heads(kind, parts):
    text = config("Llama") if kind.startswith("Llava") else config("Gemma3Text", head_dim=8)
    whole = getattr(transformers, kind.replace("ForConditionalGeneration", "Config"))(text_config=text, **parts)
    torch.manual_seed(0)
    model = getattr(transformers, kind)(whole).eval()
    assert any("vision" in name and name.endswith("self_attn.out_proj") for name, _ in model.named_modules())
    layout = head_layout(model)
    assert layout.projections == tuple(f"model.language_model.layers.{layer}.self_attn.o_proj" for layer in (0, 1))
    assert (layout.num_heads, layout.head_dim) == (4, 8)
    with pytest.raises(LofitError, match=r"no attention output projection found named 'self_attn\.out_proj'"):
        head_layout(model, projection="self_attn.out_proj")
    tokens = torch.tensor([[5, 6, 7]])
    plain = model(tokens).logits
    with HeadAdapter([(1, 3)], torch.ones(1, 8)).attach(model):
        assert (model(tokens).logits - plain).abs().max() > 1e-6


def test_cross_attention_has_no_heads_to_edit():
    layout = head_layout(make("GPT2", add_cross_attention=True))
    assert layout.projections == ("transformer.h.0.attn.c_proj", "transformer.h.1.attn.c_proj")
    bart = AutoModelForCausalLM.from_config(config("Bart", **BART))
    with pytest.raises(LofitError, match=r"no attention output projection found named 'encoder_attn\.out_proj'"):
        head_layout(bart, projection="encoder_attn.out_proj")


# ------------------------------------------------------------------------------------------ told the name of a module


def test_a_decoder_that_names_its_modules_otherwise_can_be_told():
    """RoBERTa makes its queries in one module and projects the heads' outputs in another."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config("Roberta", is_decoder=True, add_cross_attention=True)).eval()
    with pytest.raises(LofitError, match=r"no attention output projection found; expected .*`projection`"):
        head_layout(model)
    layout = head_layout(model, projection="attention.output.dense")
    assert layout.projections == tuple(f"roberta.encoder.layer.{layer}.attention.output.dense" for layer in (0, 1))
    tokens = torch.tensor([[5, 6, 7]])
    plain = model(tokens).logits
    with HeadAdapter([(1, 3)], torch.ones(1, 8)).attach(model, layout):
        assert (model(tokens).logits - plain).abs().max() > 1e-6


@pytest.mark.parametrize("name", ["o_proj", "self_attn.o_proj"])
def test_a_name_is_the_end_of_a_path(name):
    model = make("Llama")
    assert head_layout(model, projection=name) == head_layout(model)


@pytest.mark.parametrize("name", ["proj", "attn.o_proj", "layers.o_proj", "o_proj.", "O_proj", "lm_head.o_proj"])
def test_a_name_that_no_path_ends_with_is_refused(name):
    with pytest.raises(LofitError, match=f"LlamaForCausalLM: no .* named '{re.escape(name)}'; expected "):
        head_layout(make("Llama"), projection=name)


@pytest.mark.parametrize(("name", "kind"), [("self_attn", "LlamaAttention"), ("input_layernorm", "LlamaRMSNorm")])
def test_a_named_module_that_is_not_linear_is_refused(name, kind):
    with pytest.raises(LofitError, match=f"layers.0.{name} is a {kind}; expected a linear module"):
        head_layout(make("Llama"), projection=name)


class Attention(nn.Module):
    def __init__(self, num_heads):
        super().__init__()
        self.num_heads = num_heads
        self.query, self.mix = nn.Linear(12, 24), nn.Linear(24, 12)


def test_a_model_without_a_config_says_its_heads_in_the_attention_modules():
    model = nn.Sequential(Attention(3), Attention(3))
    layout = head_layout(model, projection="mix")
    assert (layout.num_layers, layout.num_heads, layout.head_dim, layout.projections) == (2, 3, 8, ("0.mix", "1.mix"))
    model[1].is_cross_attention = True
    assert head_layout(model, projection="mix").projections == ("0.mix",)
    # The same width, but other slices.
    with pytest.raises(LofitError, match=r"layers of 3 heads of 8, 4 heads of 6 numbers; expected .* the same"):
        head_layout(nn.Sequential(Attention(3), Attention(4)), projection="mix")
    with pytest.raises(
        LofitError, match=r"0\.mix: an unknown number of attention heads do not make an input of 24 numbers"
    ):
        head_layout(nn.Sequential(Attention(None)), projection="mix")


# ------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)),
        transformers.MambaForCausalLM(
            transformers.MambaConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, state_size=4)
        ),
    ],
    ids=["linear layers", "mamba"],
)
def test_a_model_without_attention_is_refused_in_words(model):
    with pytest.raises(
        LofitError, match=f"^{type(model).__name__}: no attention output projection found; expected .*$"
    ):
        head_layout(model)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("BartForConditionalGeneration", BART),
        ("T5ForConditionalGeneration", {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4}),
    ],
)
def test_an_encoder_is_refused(kind, changes):
    with torch.device("meta"):
        model = getattr(transformers, kind)(config(kind.removesuffix("ForConditionalGeneration"), **changes))
    with pytest.raises(LofitError, match=f"{kind}: got an encoder and a decoder; expected a decoder alone"):
        head_layout(model)
    with pytest.raises(LofitError, match="an encoder"):
        head_layout(model, projection="out_proj")


def test_layers_of_different_heads_are_refused(make_model):
    model = make_model()
    attention = model.model.layers[1].self_attn
    attention.o_proj = nn.Linear(64, 32)
    with pytest.raises(LofitError, match=r"layers\.1\..*: 4 attention heads of 8 do not make an input of 64 numbers"):
        head_layout(model)
    attention.head_dim = 16
    with pytest.raises(LofitError, match=r"layers of 4 heads of 8, 4 heads of 16 numbers; expected .* the same"):
        head_layout(model)
    with pytest.raises(LofitError, match="layers of 4 heads of 8, 4 heads of 16"):
        head_layout(model, projection="o_proj")


def test_heads_whose_outputs_are_smaller_than_their_queries_are_found():
    layout = head_layout(make("MiMoV2Flash", head_dim=16, v_head_dim=8))
    assert (layout.num_heads, layout.head_dim) == (4, 8)


def test_global_layers_with_wider_heads_are_refused():
    model = make("Gemma4Text", head_dim=8, global_head_dim=16, layer_types=["sliding_attention", "full_attention"])
    with pytest.raises(LofitError, match="Gemma4ForCausalLM: got layers of 4 heads of 8, 4 heads of 16 numbers"):
        head_layout(model)


def test_heads_that_come_in_pairs_are_refused():
    model = make("DiffLlama", num_key_value_heads=2)
    for name in (None, "o_proj"):
        with pytest.raises(LofitError, match=r"layers\.0\.self_attn is differential attention, whose heads come in"):
            head_layout(model, projection=name)


def test_a_projection_whose_weight_is_used_without_a_call_is_refused():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(32, 4)

    with pytest.raises(LofitError, match=r"0\.attention uses the weight of its output projection without calling it"):
        head_layout(nn.Sequential(Block()), projection="attention.out_proj")
    with pytest.raises(LofitError, match=r"self_attention uses the weight .* slow_but_exact false"):
        head_layout(make("Bloom", slow_but_exact=True, pretraining_tp=2))
    assert head_layout(make("Bloom", slow_but_exact=True, pretraining_tp=1)).num_heads == 4


# --------------------------------------------------------------------------------------------- quantised projections


class Packed(nn.Linear):
    """A linear module whose weight has been packed, as 4-bit weights are."""

    def __init__(self, width, out):
        super().__init__(width, out, bias=False)
        self.weight = nn.Parameter(torch.zeros(width * out // 2, 1, dtype=torch.uint8), requires_grad=False)


def bitsandbytes_module(name):
    def build(width, out):
        library = pytest.importorskip("bitsandbytes")
        return getattr(library.nn, name)(width, out, bias=False)

    return build


def torchao_module(width, out):
    quantization = pytest.importorskip("torchao.quantization")
    module = nn.Sequential(nn.Linear(width, out, bias=False))
    quantization.quantize_(module, quantization.Int8WeightOnlyConfig())
    return module[0]


@pytest.mark.parametrize(
    "build",
    [Packed, bitsandbytes_module("Linear4bit"), bitsandbytes_module("Linear8bitLt"), torchao_module],
    ids=["packed", "bitsandbytes 4 bit", "bitsandbytes 8 bit", "torchao"],
)
def test_the_layout_is_the_same_with_quantised_projections(make_model, build):
    model = make_model(head_dim=16)
    layout = head_layout(model)
    for layer in model.model.layers:
        layer.self_attn.o_proj = build(64, 32)
    assert (layout.num_heads, layout.head_dim) == (4, 16)
    assert head_layout(model) == layout


def test_heads_before_4_bit_projections_are_edited(make_model):
    library = pytest.importorskip("bitsandbytes")
    model = make_model()
    for layer in model.model.layers:
        module = library.nn.Linear4bit(32, 32, bias=False, compute_dtype=torch.float32, quant_type="nf4")
        module.load_state_dict({"weight": layer.self_attn.o_proj.weight})
        layer.self_attn.o_proj = module.to("cpu")
    assert model.model.layers[0].self_attn.o_proj.weight.dtype == torch.uint8
    adapter, tokens = HeadAdapter([(0, 1)], torch.ones(1, 8)), torch.tensor([[5, 6, 7]])
    plain = model(tokens).logits
    with adapter.attach(model):
        edited = model(tokens).logits
        edited.logsumexp(-1).sum().backward()
    assert (edited - plain).abs().max() > 1e-3
    assert (adapter.offsets.grad != 0).all()


def test_the_input_width_is_no_output_width():
    assert input_width(nn.Linear(6, 10)) == input_width(Conv1D(10, 6)) == input_width(Packed(6, 10)) == 6
    assert input_width(nn.LayerNorm(6)) is None
