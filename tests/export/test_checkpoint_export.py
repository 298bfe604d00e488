"""Checkpoints with an adapter folded in, as they come back from disk in a process without lofit."""

import json
import subprocess
import sys
from functools import partial

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from lofit import HeadAdapter, LofitError, head_layout
from lofit.export import checkpoint
from lofit.export.merge import merge
from lofit.export.verify import expect, fixed_rows, verify
from lofit.models.base import load, resolve
from tests.families import FAMILIES, HEADS, LAYERS, SHAPE, TOKENS, VOCABULARY, build

export_checkpoint = partial(checkpoint.export_checkpoint, device="cpu")
SIZE = 320
"""Of the vocabulary of the tests' tokenizer."""
EDITED = [(0, 1), (0, 3), (1, 0), (1, 2)]
FULL = {"sliding_window": None}
"""Of a Mistral that is a Llama by another name."""


@pytest.fixture
def make_base(tokenizer, tmp_path):
    """A family of decoders as a folder with a tokenizer; keywords change its config, `loading` how it is resolved."""

    def make(name, loading=None, **changes):
        family = FAMILIES[name]
        settings = {**SHAPE, **TOKENS, **family.changes, "vocab_size": SIZE, **changes}
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(getattr(transformers, f"{family.config}Config")(**settings))
        for path, weight in model.named_parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=0.2)
            elif path.endswith("bias"):
                torch.nn.init.normal_(weight, std=0.1)
        folder = tmp_path / "base"
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return resolve("tiny", source=str(folder), **{"dtype": "float32", **(loading or {})})

    return make


def adapter_for(layout, vectors="both", *, alike=False):
    generator = torch.Generator().manual_seed(3)
    if alike:
        heads = layout.all_heads()
        values = torch.randn(2, LAYERS, layout.head_dim, generator=generator).repeat_interleave(HEADS, dim=1)
    else:
        heads, values = EDITED, torch.randn(2, len(EDITED), layout.head_dim, generator=generator)
    return HeadAdapter(
        heads, None if vectors == "scales" else values[1], None if vectors == "offsets" else values[0] / 4
    )


def test_a_checkpoint_does_what_the_hooked_base_does_and_says_so(make_base, tmp_path, tokenizer):
    base, out = make_base("llama, 2 kv heads"), tmp_path / "made" / "out"
    adapter = adapter_for(base.layout)
    verification = export_checkpoint(base, adapter, out)
    assert verification.difference < 1e-4 * verification.effect and verification.effect > 1
    assert {file.name for file in out.parent.iterdir()} == {"out"}
    files = {file.name: file.read_bytes() for file in out.iterdir()}
    assert set(files) == {
        *("README.md", "config.json", "generation_config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json"),
    }
    assert not any(str(tmp_path).encode() in content for content in files.values())
    card = files["README.md"].decode()
    for said in ("scales are folded into the weights", "`attention_bias` in config.json", "AutoModelForCausalLM"):
        assert said in card
    assert f"{verification.difference:.3g}" in card and f"{verification.effect:.3g}" in card
    model, _ = load(base, device="cpu")
    rows = fixed_rows(tokenizer, SIZE)
    again, read = load(resolve(str(out), dtype="float32"), device="cpu")
    expected = expect(model, adapter, base.layout, rows)
    for row, logits in zip(rows, expected.edited, strict=True):
        torch.testing.assert_close(again(row[None]).logits[0], logits, rtol=1e-4, atol=1e-4)
    assert read("Can pigs fly?")["input_ids"] == tokenizer("Can pigs fly?")["input_ids"]


def test_a_checkpoint_whose_effect_is_gone_never_appears(make_base, tmp_path, monkeypatch):
    base = make_base("llama")

    def without_biases(model, tokenizer, folder):
        for layer in model.model.layers:
            layer.self_attn.o_proj.bias.zero_()
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    monkeypatch.setattr(checkpoint, "_save", without_biases)
    with pytest.raises(
        LofitError, match=r"differs from the model with the adapter attached by .*expected 0.001 of the"
    ):
        export_checkpoint(base, adapter_for(base.layout), tmp_path / "made" / "out")
    assert not list((tmp_path / "made").iterdir())


def test_an_architecture_without_a_place_is_refused_before_its_weights_are_read(make_base, tmp_path, monkeypatch):
    base = make_base("mistral")
    monkeypatch.setattr(checkpoint, "load", lambda *_, **__: pytest.fail("weights were read"))
    with pytest.raises(LofitError, match="no place for this adapter"):
        export_checkpoint(base, adapter_for(base.layout), tmp_path / "out")
    with pytest.raises(LofitError, match="qwen3 in vllm"):
        base = make_base("qwen3")
        export_checkpoint(base, adapter_for(base.layout), tmp_path / "out", engine="vllm")
    assert {path.name for path in tmp_path.iterdir()} == {"base"}


def test_what_is_in_the_way_stays(make_base, tmp_path):
    base, out = make_base("llama"), tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(LofitError, match=r"out: got a folder that is not empty"):
        export_checkpoint(base, adapter_for(base.layout), out)
    assert [file.name for file in out.iterdir()] == ["mine.txt"]


def test_what_transformers_cannot_write_is_refused_in_words(make_base, tmp_path, monkeypatch):
    def save_pretrained(model, folder):
        raise ValueError("The model is quantized with fp8 and is not serializable\nsee above")

    base = make_base("llama")
    monkeypatch.setattr(PreTrainedModel, "save_pretrained", save_pretrained)
    with pytest.raises(LofitError, match=r"transformers cannot write this LlamaForCausalLM \(The model is .*able\)$"):
        export_checkpoint(base, adapter_for(base.layout), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_that_reads_back_otherwise_is_refused(make_base, tmp_path, monkeypatch):
    base, hashes = make_base("llama"), iter("ab")
    monkeypatch.setattr(checkpoint, "tokenizer_hash", lambda tokenizer: next(hashes))
    with pytest.raises(LofitError, match="the tokenizer, read back, is not that of"):
        export_checkpoint(base, adapter_for(base.layout), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_base_is_folded_where_the_caller_says(make_base, tmp_path, monkeypatch):
    def load(base, **place):
        raise KeyError(place)

    monkeypatch.setattr(checkpoint, "load", load)
    base = make_base("llama")
    with pytest.raises(KeyError, match=r"\{'device': 'cuda:1'\}"):
        export_checkpoint(base, adapter_for(base.layout), tmp_path / "out", device="cuda:1")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, changes, alike, route",
    [
        ("qwen2", {}, False, "labelled as a Llama"),
        ("phi3", {}, False, "labelled as a Llama"),
        ("mistral", FULL, False, "labelled as a Llama"),
        ("gpt2", {}, False, "in the biases of the attention output projections."),
        ("falcon, new decoder", {}, False, "`bias` in config.json switches these on"),
        ("stablelm", {}, True, "in the biases of the value projections. `use_qkv_bias`"),
        ("glm4", {}, True, "in the biases of the value projections."),
    ],
)
def test_each_route_leads_back_to_the_hooked_base(name, changes, alike, route, make_base, tmp_path):
    base = make_base(name, **changes)
    verification = export_checkpoint(base, adapter_for(base.layout, alike=alike), tmp_path / "out")
    assert verification.difference < 1e-4 * verification.effect and verification.effect > 1
    assert route in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("vectors", ["scales", "offsets", "both"])
def test_bfloat16_reads_back_within_its_rounding(vectors, make_base, tmp_path):
    base = make_base("qwen2", {"dtype": "bfloat16"})
    verification = export_checkpoint(base, adapter_for(base.layout, vectors), tmp_path / "out")
    assert verification.difference < 0.05 * verification.effect
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["bitsandbytes_4bit", "bitsandbytes_8bit"])
@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2"])
def test_a_quantised_checkpoint_reads_back_quantised(name, quantization, make_base, tmp_path):
    pytest.importorskip("bitsandbytes")
    base = make_base(name, {"quantization": quantization}, hidden_size=128, intermediate_size=256)
    verification = export_checkpoint(base, adapter_for(base.layout, "offsets"), tmp_path / "out")
    assert verification.difference < 0.15 * verification.effect
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["quantization_config"][f"load_in_{quantization[-4:]}"] is True


@pytest.mark.slow
def test_the_same_inputs_give_the_same_bytes(make_base, tmp_path):
    base = make_base("qwen2")
    adapter = adapter_for(base.layout)
    export_checkpoint(base, adapter, tmp_path / "one" / "out")
    export_checkpoint(base, adapter, tmp_path / "two" / "other")
    one, other = (
        {file.name: file.read_bytes() for file in (tmp_path / at).iterdir()} for at in ("one/out", "two/other")
    )
    assert one == other
    (tmp_path / "two" / "other" / "stale.txt").touch()
    export_checkpoint(base, adapter, tmp_path / "two" / "other", force=True)
    assert {file.name: file.read_bytes() for file in (tmp_path / "two" / "other").iterdir()} == one


def drop_a_bias(folder, weights, config):
    del weights["model.layers.1.self_attn.o_proj.bias"]


def switch_off(folder, weights, config):
    config["attention_bias"] = False


def forget_the_biases(folder, weights, config):
    switch_off(folder, weights, config)
    for key in [key for key in weights if key.endswith("bias")]:
        del weights[key]


def zero_the_biases(folder, weights, config):
    for key in weights:
        if key.endswith("bias"):
            weights[key] = torch.zeros_like(weights[key])


def lose_one_head(folder, weights, config):
    """Its layer's bias without the part of one of two heads."""
    weights["model.layers.1.self_attn.o_proj.bias"] /= 2


def add_a_weight(folder, weights, config):
    weights["model.layers.0.self_attn.o_proj.offset"] = torch.zeros(32)


@pytest.mark.slow
@pytest.mark.parametrize(
    "tamper, message",
    [
        (drop_a_bias, r"missing keys: model.layers.1.self_attn.o_proj.bias"),
        (switch_off, r"unexpected keys: model.layers.0.self_attn.k_proj.bias"),
        (forget_the_biases, r"differs from the model with the adapter attached"),
        (zero_the_biases, r"differs from the model with the adapter attached"),
        (lose_one_head, r"differs from the model with the adapter attached"),
        (add_a_weight, r"unexpected keys: model.layers.0.self_attn.o_proj.offset"),
    ],
)
def test_a_folder_tampered_with_fails(tamper, message, make_base, tokenizer, tmp_path):
    base = make_base("llama")
    model, _ = load(base, device="cpu")
    adapter, folder = adapter_for(base.layout, "offsets"), tmp_path / "out"
    expected = expect(model, adapter, base.layout, fixed_rows(tokenizer, SIZE))
    merge(model, adapter).save_pretrained(folder)
    weights, config = load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())
    tamper(folder, weights, config)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(LofitError, match=message):
        verify(folder, expected, dtype="float32")


# Every family in one process ------------------------------------------------------------------------------------------

READ_ALL = """
import sys
sys.modules["lofit"] = None
from pathlib import Path
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
folder = Path(sys.argv[1])
rows, logits = load_file(folder / "rows"), {}
for path in sorted(path for path in folder.iterdir() if path.is_dir()):
    model, loading = AutoModelForCausalLM.from_pretrained(path, output_loading_info=True)
    assert not any(loading.values()), (path, loading)
    logits[path.name] = model.eval()(rows["rows"]).logits.detach().contiguous()
save_file(logits, folder / "logits")
"""


@pytest.mark.slow
def test_every_family_with_a_place_for_offsets_reads_back_in_a_process_without_lofit(tmp_path):
    rows = torch.randint(3, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(1))
    edited, effects, refused = {}, {}, []
    for name in FAMILIES:
        model = build(name, torch.float32)
        layout = head_layout(model)
        adapter = adapter_for(layout, alike=name in ("stablelm", "glm4"))
        base = model(rows).logits
        with adapter.attach(model), torch.no_grad():
            edited[name] = model(rows).logits
        effects[name] = float((edited[name] - base).abs().max())
        model.save_pretrained(tmp_path / "base")
        try:
            merge(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), adapter).save_pretrained(
                tmp_path / "all" / name
            )
        except LofitError:
            refused.append(name)
    save_file({"rows": rows}, tmp_path / "all" / "rows")
    subprocess.run([sys.executable, "-c", READ_ALL, tmp_path / "all"], check=True)
    read = load_file(tmp_path / "all" / "logits")
    assert sorted([*read, *refused]) == sorted(FAMILIES)
    assert refused == ["mistral", "mixtral", "gptj", "codegen", "mpt", "minimax", "lfm2", "jamba", "nemotron_h"]
    for name, logits in read.items():
        assert (logits - edited[name]).abs().max() < 1e-4 * effects[name], name
        assert effects[name] > 0.1, name
