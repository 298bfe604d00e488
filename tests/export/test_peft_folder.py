"""Adapters as stock PEFT folders, against hooks that go through the heads one by one."""

import copy
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, GPT2Config, GPT2LMHeadModel

from lofit import HeadAdapter, LofitError, head_layout
from lofit.export import peft_folder
from lofit.export.peft_folder import layer_edits, weight_columns, write_peft
from lofit.export.verify import Verification, largest_difference, logits
from lofit.models.base import load, resolve
from tests.families import FAMILIES, build

export_peft = partial(peft_folder.export_peft, device="cpu")
EDITED = [(1, 2), (0, 3), (0, 1)]
"""Not in order, and not as many in each layer."""
ROUTES = {
    "offsets": (("offsets",), None, "beft"),
    "scales": (("scales",), None, "ia3"),
    "both": (("scales", "offsets"), None, "lora"),
    "offsets as lora": (("offsets",), "lora", "lora"),
    "scales as lora": (("scales",), "lora", "lora"),
}
WIDE = {"hidden_size": 128, "intermediate_size": 128, "num_attention_heads": 16, "num_key_value_heads": 4}
"""For rounding to be small beside an edit, and for the CPU kernel of 4-bit weights, which wants whole blocks of 64."""
ROWS = [torch.arange(3, 19), torch.arange(40, 90, 3)]
FILES = ["README.md", "adapter_config.json", "adapter_model.safetensors"]
HUB = {"source": "someone/model", "revision": "0123456789" * 4}


# What peft says of a merge, to which these folders do not come.
pytestmark = pytest.mark.filterwarnings("ignore:.*has no bias:UserWarning")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def make_base(tmp_path, tokenizer):
    """A model as a folder, and resolved."""

    def make(model, **loading):
        home = tmp_path / "base"
        model.save_pretrained(home)
        tokenizer.save_pretrained(home)
        return resolve(str(home), **{"dtype": "float32", **loading})

    return make


@pytest.fixture
def base(make_base, model):
    return make_base(model)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", FAMILIES)
def test_both_ways_to_load_give_the_logits_of_a_loop_over_heads(name, route, tmp_path):
    family, plain = FAMILIES[name], build(name, torch.float32)
    adapter, method, kind = make_adapter(route, family.head_dim)
    if family.config == "GPT2" and kind == "beft":
        kind = "lora"
    base = logits(plain, ROWS)
    with edited_by_hand(plain, family.projections, adapter):
        expected = logits(plain, ROWS)
    near = 1e-5 * largest_difference(expected, base)
    assert near > 1e-6

    layout = head_layout(plain)
    written = write_peft(copy.deepcopy(plain), adapter, tmp_path, layout=layout, method=method, **HUB)
    config = json.loads((tmp_path / FILES[1]).read_text())
    assert written == kind == config["peft_type"].lower()
    assert config.get("fan_in_fan_out", False) == (family.config == "GPT2")

    wrapped = PeftModel.from_pretrained(copy.deepcopy(plain), tmp_path, torch_device="cpu").eval()
    assert largest_difference(logits(wrapped, ROWS), expected) < near
    assert sorted(wrapped.targeted_module_names) == sorted(family.projections)
    with wrapped.disable_adapter():
        assert largest_difference(logits(wrapped, ROWS), base) == 0

    loaded = copy.deepcopy(plain)
    loading = loaded.load_adapter(str(tmp_path))
    assert not loading.missing_keys and not loading.unexpected_keys and not loading.mismatched_keys
    assert largest_difference(logits(loaded, ROWS), expected) < near


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", ["opt", "gpt2"])
def test_peft_merges_it_into_projections_that_have_a_bias(name, route, tmp_path):
    family, plain = FAMILIES[name], build(name, torch.float32)
    adapter, method, _ = make_adapter(route, family.head_dim)
    write_peft(copy.deepcopy(plain), adapter, tmp_path, layout=head_layout(plain), method=method, **HUB)
    merged = PeftModel.from_pretrained(copy.deepcopy(plain), tmp_path, torch_device="cpu").merge_and_unload()
    with edited_by_hand(plain, family.projections, adapter):
        assert largest_difference(logits(merged, ROWS), logits(plain, ROWS)) < 1e-4


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", ["llama, 2 kv heads", "opt", "gpt2"])
def test_a_model_in_16_bits_gets_vectors_in_float32(name, route, tmp_path):
    plain = copy.deepcopy(build(name, torch.float32)).bfloat16()
    adapter, method, _ = make_adapter(route, FAMILIES[name].head_dim)
    base = logits(plain, ROWS)
    with edited_by_hand(plain, FAMILIES[name].projections, adapter):
        expected = logits(plain, ROWS)
    write_peft(copy.deepcopy(plain), adapter, tmp_path, layout=head_layout(plain), method=method, **HUB)
    assert {vector.dtype for vector in load_file(tmp_path / FILES[2]).values()} == {torch.float32}
    plain.load_adapter(str(tmp_path))
    assert largest_difference(logits(plain, ROWS), expected) < 0.05 * largest_difference(expected, base)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantised_model_is_read_by_running_it(make_model, tmp_path, bits, route, dtype):
    make_model(**WIDE, attention_bias=True).save_pretrained(tmp_path / "base")
    config = BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8, bnb_4bit_quant_type="nf4")
    adapter, method, kind = make_adapter(route, 8)
    if route == "scales" and dtype == "bfloat16":
        kind = "lora"
    loading = {"dtype": dtype, "quantization_config": config}
    quantised = AutoModelForCausalLM.from_pretrained(tmp_path / "base", **loading)
    layout = head_layout(quantised)
    before = logits(quantised, ROWS)
    with edited_by_hand(quantised, layout.projections, adapter):
        expected = logits(quantised, ROWS)
    folder = tmp_path / "peft"
    assert write_peft(quantised, adapter, folder, layout=layout, method=method, source=str(tmp_path / "base")) == kind
    found = logits(AutoModelForCausalLM.from_pretrained(folder, **loading), ROWS)
    # LLM.int8 rounds what it multiplies to 127 steps, edited or not: the edit cannot come out the same.
    assert largest_difference(found, expected) < 0.1 * largest_difference(expected, before)


@pytest.mark.parametrize("name", ["llama", "opt", "gpt2", "gpt_neox"])
def test_columns_of_a_weight_are_exact_whatever_its_bias_and_layout(name):
    model = copy.deepcopy(build(name, torch.float32)).bfloat16()
    layout = head_layout(model)
    projection = model.get_submodule(layout.projections[0])
    edit = layer_edits(HeadAdapter([(0, 3), (0, 1)], torch.ones(2, layout.head_dim)), layout)[0]
    weight = projection.weight.T if name == "gpt2" else projection.weight
    columns = [head * layout.head_dim + number for head in (1, 3) for number in range(layout.head_dim)]
    assert torch.equal(weight_columns(projection, edit.units), weight[:, columns].float())


def test_an_export_is_read_back_in_a_process_without_lofit(base, tmp_path, monkeypatch):
    adapter, *_ = make_adapter("offsets", 8)
    out = tmp_path / "peft"
    verification = export_peft(base, adapter, out)
    assert 0 < verification.difference < 1e-4 * verification.effect
    assert sorted(file.name for file in out.iterdir()) == FILES
    monkeypatch.chdir("/")
    loaded = AutoModelForCausalLM.from_pretrained(out)
    plain = AutoModelForCausalLM.from_pretrained(base.source)
    with edited_by_hand(plain, base.layout.projections, adapter):
        assert largest_difference(logits(loaded, ROWS), logits(plain, ROWS)) < 1e-4


def test_a_relative_base_folder_is_named_in_full(base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(peft_folder, "verify", lambda *_, **__: Verification(1e-6, 1.0, 1e-3, "float32", {}))
    adapter, *_ = make_adapter("scales", 8)
    export_peft(replace(base, source="base"), adapter, tmp_path / "peft")
    config = json.loads((tmp_path / "peft" / FILES[1]).read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == (str(tmp_path / "base"), None)


@pytest.mark.parametrize("route", ROUTES)
def test_a_folder_is_bound_to_its_base_and_its_card_says_so(base, tmp_path, monkeypatch, route):
    def ask(*_):
        pytest.fail("the hub was asked")

    monkeypatch.setattr("peft.utils.save_and_load.check_file_exists_on_hf_hub", ask)
    monkeypatch.setattr(peft_folder, "load", lambda _, **place: load(base, **place))
    monkeypatch.setattr(peft_folder, "verify", lambda *_, **__: Verification(1e-6, 1.0, 1e-3, "float32", {}))
    adapter, method, kind = make_adapter(route, 8)
    export_peft(replace(base, **HUB), adapter, tmp_path / "peft", method=method)
    config, card = (json.loads((tmp_path / "peft" / FILES[1]).read_text()), (tmp_path / "peft" / FILES[0]).read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == tuple(HUB.values())
    assert f'from_pretrained("THIS_FOLDER", revision="{HUB["revision"]}")' in card
    assert f"bound to {HUB['source']} at {HUB['revision']}" in card
    assert ("vLLM" in card) == (adapter.offsets is not None)
    assert {"beft": "BEFT on", "ia3": "IA3 on", "lora": "LoRA on"}[kind] in card


@pytest.mark.slow
@pytest.mark.parametrize("route", ROUTES)
def test_every_route_passes_its_verification_in_16_bits(make_base, make_model, tmp_path, route):
    base = make_base(make_model(**WIDE), dtype="bfloat16")
    adapter, method, _ = make_adapter(route, 8)
    assert export_peft(base, adapter, tmp_path / "peft", method=method).effect > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("route", ROUTES)
def test_gpt2_passes_its_verification(make_base, tmp_path, route):
    torch.manual_seed(0)
    shape = {"vocab_size": 320, "n_embd": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3}
    base = make_base(GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=0, eos_token_id=0)))
    adapter, method, _ = make_adapter(route, 8)
    verification = export_peft(base, adapter, tmp_path / "peft", method=method)
    assert verification.difference < 1e-4 * verification.effect


@pytest.mark.slow
@pytest.mark.parametrize("route", ["offsets", "both", "scales as lora"])
@pytest.mark.parametrize("quantization", ["bitsandbytes_4bit", "bitsandbytes_8bit"])
def test_a_quantised_base_passes_its_verification(make_base, make_model, tmp_path, quantization, route):
    base = make_base(make_model(**WIDE), dtype="bfloat16", quantization=quantization)
    adapter, method, _ = make_adapter(route, 8)
    export_peft(base, adapter, tmp_path / "peft", method=method)
    assert quantization in (tmp_path / "peft" / FILES[0]).read_text()


@pytest.mark.slow
def test_the_same_call_gives_the_same_bytes_in_another_process(base, tmp_path):
    make_adapter("both", 8)[0].save_pretrained(tmp_path / "adapter")
    script = (
        "import sys; from pathlib import Path; from lofit import HeadAdapter; "
        "from lofit.export.peft_folder import export_peft; from lofit.models.base import resolve; "
        "base, adapter, out = sys.argv[1:]; base = resolve(base, dtype='float32'); "
        "export_peft(base, HeadAdapter.from_pretrained(adapter), Path(out), device='cpu')"
    )
    for seed in ("1", "2"):
        command = [sys.executable, "-c", script, base.source, tmp_path / "adapter", tmp_path / seed]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": seed})
    for file in FILES:
        assert (tmp_path / "1" / file).read_bytes() == (tmp_path / "2" / file).read_bytes()


def test_an_export_without_effect_is_refused_and_leaves_nothing(base, tmp_path, monkeypatch):
    def lose(model, vectors):
        return write(model, {name: torch.zeros_like(vector) for name, vector in vectors.items()})

    write = peft_folder.set_peft_model_state_dict
    monkeypatch.setattr(peft_folder, "set_peft_model_state_dict", lose)
    with pytest.raises(LofitError, match=r"differs from the model with the adapter attached by [\d.]+ in a logit"):
        export_peft(base, make_adapter("offsets", 8)[0], tmp_path / "peft")
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


@pytest.mark.slow
@pytest.mark.parametrize("route", ["offsets", "scales", "both"])
def test_an_export_for_another_layer_is_refused_and_keeps_what_was_there(base, tmp_path, monkeypatch, route):
    def elsewhere(adapter, layout):
        paths = layout.projections[::-1]
        return layer_edits(adapter, replace(layout, projections=paths))

    adapter, method, _ = make_adapter(route, 8)
    (tmp_path / "peft").mkdir()
    (tmp_path / "peft" / "old").write_text("old")
    monkeypatch.setattr(peft_folder, "layer_edits", elsewhere)
    with pytest.raises(LofitError, match="differs from the model"):
        export_peft(base, adapter, tmp_path / "peft", method=method, force=True)
    assert [path.name for path in (tmp_path / "peft").iterdir()] == ["old"]


@pytest.mark.parametrize(
    "adapter", [HeadAdapter([], torch.zeros(0, 8)), HeadAdapter([(0, 1)])], ids=["heads", "vectors"]
)
def test_an_empty_adapter_is_refused(base, tmp_path, adapter):
    with pytest.raises(LofitError, match=r"got no vectors \(\d heads\); expected scales or offsets of a head"):
        export_peft(base, adapter, tmp_path / "peft")
    assert not (tmp_path / "peft").exists()


def test_an_adapter_for_a_larger_model_is_refused(base, tmp_path):
    with pytest.raises(LofitError, match=r"\(2, 0\) is not in the model"):
        export_peft(base, HeadAdapter([(2, 0)], torch.ones(1, 8)), tmp_path / "peft")
    assert not (tmp_path / "peft").exists()


@pytest.mark.parametrize("route", ["scales", "both"])
def test_beft_is_refused_for_scales(route, tmp_path):
    plain = copy.deepcopy(build("llama", torch.float32))
    with pytest.raises(LofitError, match="method: got 'beft' for scales, of which BEFT has none; expected lora"):
        write_peft(plain, make_adapter(route, 8)[0], tmp_path, layout=head_layout(plain), method="beft", **HUB)


def test_beft_is_refused_for_gpt2(tmp_path):
    plain = copy.deepcopy(build("gpt2", torch.float32))
    with pytest.raises(LofitError, match="method: got 'beft' for Conv1D, which peft's BEFT refuses; expected lora"):
        write_peft(plain, make_adapter("offsets", 8)[0], tmp_path, layout=head_layout(plain), method="beft", **HUB)


def test_a_module_that_peft_does_not_know_is_refused_in_words(tmp_path):
    class Doubled(torch.nn.Module):
        in_features = 32

        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, z):
            return 2 * self.inner(z)

    plain = copy.deepcopy(build("llama", torch.float32))
    attention = plain.model.layers[0].self_attn
    attention.o_proj = Doubled(attention.o_proj)
    with pytest.raises(LofitError, match=r"peft cannot edit model\.layers\.0\.self_attn\.o_proj .*; expected the head"):
        write_peft(
            plain, make_adapter("offsets", 8)[0], tmp_path, layout=head_layout(build("llama", torch.float32)), **HUB
        )


def test_a_quantisation_that_cannot_be_compared_is_refused(base, tmp_path):
    with pytest.raises(
        LofitError, match=r"got 'torchao_8bit', .*; expected null, bitsandbytes_4bit, bitsandbytes_8bit"
    ):
        export_peft(replace(base, quantization="torchao_8bit"), make_adapter("offsets", 8)[0], tmp_path / "peft")


# ---------------------------------------------------------------------------------------------------------- helpers


def make_adapter(route, head_dim):
    """An adapter of three heads, the method to ask for, and the kind of PEFT that comes of it."""
    names, method, kind = ROUTES[route]
    generator = torch.Generator().manual_seed(3)
    vectors = {name: torch.randn(len(EDITED), head_dim, generator=generator) for name in ("scales", "offsets")}
    return HeadAdapter(EDITED, **{name: vectors[name] for name in names}), method, kind


@contextmanager
def edited_by_hand(model, projections, adapter):
    """z <- (1 + scale) * z + offset for one head after another."""

    def edit(layer):
        def hook(module, args):
            z = args[0].clone()
            for row, (at, head) in enumerate(adapter.heads):
                if at == layer:
                    own = slice(head * adapter.head_dim, (head + 1) * adapter.head_dim)
                    scale = 0 if adapter.scales is None else adapter.scales[row].detach()
                    offset = 0 if adapter.offsets is None else adapter.offsets[row].detach()
                    z[..., own] = ((1 + scale) * z[..., own] + offset).to(z.dtype)
            return (z,)

        return hook

    handles = [
        model.get_submodule(path).register_forward_pre_hook(edit(layer)) for layer, path in enumerate(projections)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
