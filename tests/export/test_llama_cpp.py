"""The route to GGUF by llama.cpp's own converter, and what llama.cpp does with biases; `make engines` installs both."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaTokenizer

from lofit.adapters.heads import HeadAdapter
from lofit.errors import LofitError
from lofit.export.checkpoint import export_checkpoint
from lofit.export.engines import verdict
from lofit.export.verify import expect, fixed_rows, largest_difference
from lofit.models.base import load, resolve
from lofit.storage.files import write_json
from tests.families import FAMILIES, SHAPE, TOKENS

CHECKOUT = os.environ.get("LLAMA_CPP", "")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not CHECKOUT or not find_spec("llama_cpp"),
        reason="LLAMA_CPP names no checkout of llama.cpp, or llama-cpp-python is missing; `make engines` gets both",
    ),
]

NAMELESS = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import convert_hf_to_gguf as converter

def nameless(self):
    size = self.hparams["vocab_size"]
    self.gguf_writer.add_tokenizer_model("llama")
    self.gguf_writer.add_tokenizer_pre("default")
    self.gguf_writer.add_token_list(["<unk>", "<s>", "</s>", *(f"<{index}>" for index in range(3, size))])
    self.gguf_writer.add_token_scores([0.0] * size)
    self.gguf_writer.add_token_types([1] * size)

def with_nameless_tokens(*args, find=converter.get_model_class, **options):
    model = find(*args, **options)
    model.set_vocab = nameless
    return model

converter.get_model_class = with_nameless_tokens
converter.main()
"""
"""The converter, for checkpoints whose tokenizer it does not know: it recognises one by the ids of a long text."""


def convert(folder: Path, *options: str, tokenizer: bool = False) -> Path:
    """Converts a folder to GGUF beside it; raises what the converter says where it fails."""
    program = [f"{CHECKOUT}/convert_hf_to_gguf.py"] if tokenizer else ["-c", NAMELESS, CHECKOUT]
    out = folder.with_suffix(".gguf")
    command = [sys.executable, *program, str(folder), "--outfile", str(out), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(done.stderr.strip().splitlines()[-1])
    return out


def run(file: Path, rows: list[Tensor]) -> list[Tensor]:
    """Logits of each row of token ids, tokens x vocabulary, with a cache in float32; raises where it does not load."""
    import llama_cpp

    exact = {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32, "flash_attn": False}
    model = llama_cpp.Llama(str(file), n_ctx=256, logits_all=True, n_threads=1, n_gpu_layers=0, **exact)
    logits = []
    for row in rows:
        model.reset()
        model.eval(row.tolist())
        logits.append(torch.tensor(model.scores[: len(row)]))
    model.close()
    return logits


def make_base(folder: Path, architecture: str, **changes):
    """A random model of 2 layers x 4 heads x 16 numbers with a tokenizer of bytes, written to a folder and resolved."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_key_value_heads": 2, "max_position_embeddings": 256}
    config = getattr(transformers, f"{architecture}Config")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        config(**{**SHAPE, **TOKENS, **sizes, "vocab_size": len(tokens), **changes})
    )
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.3 if weight.ndim > 1 else 0.1)
    model.save_pretrained(folder)
    LlamaTokenizer(vocab={token: index for index, token in enumerate(tokens)}, merges=[]).save_pretrained(folder)
    return resolve(str(folder), dtype="float32", device="cpu")


@pytest.mark.parametrize(("outtype", "tolerance"), [("f32", 1e-4), ("q8_0", 0.1)])
@pytest.mark.parametrize("architecture", ["Llama", "Qwen2"])
def test_an_export_gives_the_hooked_models_logits_in_llama_cpp(tmp_path, architecture, outtype, tolerance):
    base = make_base(tmp_path / "base", architecture)
    adapter = HeadAdapter([(0, 1), (1, 0), (1, 3)], offsets=torch.randn(3, 16), scales=0.3 * torch.randn(3, 16))
    export_checkpoint(base, adapter, tmp_path / "out", engine="llama.cpp")
    model, tokenizer = load(base)
    expected = expect(model, adapter, base.layout, fixed_rows(tokenizer, model.config.vocab_size))

    # The converter takes a byte tokenizer with a Llama; what transformers makes of it with a Qwen2 it does not know.
    file = convert(tmp_path / "out", "--outtype", outtype, tokenizer=architecture == "Llama")

    difference = largest_difference(run(file, expected.rows), expected.edited)
    print(f"{architecture} {outtype}: difference {difference:.2g}, effect {expected.effect:.2g}")
    assert difference < tolerance * expected.effect


def test_an_export_that_llama_cpp_would_refuse_is_refused(tmp_path, capfd):
    base = make_base(tmp_path / "base", "Qwen3", head_dim=16)
    adapter = HeadAdapter([(0, 1)], offsets=torch.randn(1, 16))
    with pytest.raises(LofitError, match=r"llama\.cpp"):
        export_checkpoint(base, adapter, tmp_path / "out", engine="llama.cpp")

    export_checkpoint(base, adapter, tmp_path / "out")
    with pytest.raises(ValueError, match="Failed to load"):
        run(convert(tmp_path / "out"), [torch.tensor([1, 2])])
    assert "wrong number of tensors" in capfd.readouterr().err


CHANGES = {
    # Where llama.cpp has no counterpart for an option, or takes it to be as in the models that exist.
    "mistral": {"sliding_window": None},
    "starcoder2": {"sliding_window": None},
    "qwen3_moe": {"norm_topk_prob": True},
    "qwen3_next": {"norm_topk_prob": True, "full_attention_interval": 2},
    "gemma2": {"query_pre_attn_scalar": 16},
    "gemma3_text": {"query_pre_attn_scalar": 16, "sliding_window": 64, "layer_types": ["sliding_attention"] * 2},
    "phi": {"num_key_value_heads": 4, "intermediate_size": 128},
    "gpt2": {"n_ctx": 64},
    "cohere": {"use_qk_norm": False},
    "stablelm": {"qk_layernorm": False, "use_qkv_bias": True},
    "falcon": {"new_decoder_architecture": True, "num_kv_heads": 2},
    "falcon_h1": {"head_dim": 8},
    "bamba": {"attn_rotary_emb": 4},
}
OPTIONS = {"qwen3_next": ["--no-mtp"]}
UNSERVED = {
    "gpt_neox": "rotary_pct",
    "granitemoehybrid": "Failed to load model",
    "kimi_linear": "Can not map tensor",
}
"""Why, where the converter knows the architecture by name."""


@torch.no_grad()
def make_pair(family, folder: Path):
    """A family's model without and with a bias on its output projections: folders, and logits of a row of ids."""
    config = getattr(transformers, f"{family.config}Config")
    changes = {**SHAPE, **TOKENS, **family.changes, **CHANGES.get(config.model_type, {})}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config(**changes)).eval()
    for path, weight in model.named_parameters():
        if path.endswith("bias") or (weight.ndim > 1 and "A_log" not in path):
            nn.init.normal_(weight, std=0.3)
    row = torch.arange(3, 96, 6)
    pair = []
    for name in ("without", "with"):
        if name == "with":
            for path in family.projections:
                model.get_submodule(path).bias = nn.Parameter(torch.randn(model.config.hidden_size))
        model.save_pretrained(folder / name)
        # Of a Gemma 3, the converter reads there how many tokens there are.
        write_json(folder / name / "tokenizer.json", {"model": {"vocab": list(range(96))}, "added_tokens": []})
        pair.append((folder / name, [model(row[None]).logits[0]]))
    return [row], *pair


def tested_rows():
    families = {getattr(transformers, f"{family.config}Config").model_type: family for family in FAMILIES.values()}
    return [
        pytest.param(family, model_type, row.verdict, id=model_type)
        for model_type, family in families.items()
        if (row := verdict(model_type, "llama.cpp", "o_proj")).mark == "tested"
    ]


@pytest.mark.parametrize(("family", "model_type", "expected"), tested_rows())
def test_llama_cpp_does_with_a_bias_what_the_table_says(tmp_path, capfd, family, model_type, expected):
    rows, (plain, base), (biased, edited) = make_pair(family, tmp_path)
    near = 0.02 * largest_difference(base, edited)
    options = ["--outtype", "f32", *OPTIONS.get(model_type, [])]
    if expected == "unserved":
        with pytest.raises(ValueError, match=UNSERVED.get(model_type, "is not supported")):
            run(convert(plain, *options), rows)
        return
    assert (largest_difference(run(convert(plain, *options), rows), base) < near) is (expected != "misreads")
    capfd.readouterr()
    file = convert(biased, *options)
    if expected == "refuses":
        with pytest.raises(ValueError, match="Failed to load model"):
            run(file, rows)
        assert "wrong number of tensors" in capfd.readouterr().err
    else:
        found = run(file, rows)
        assert (largest_difference(found, edited) < near) is (expected == "keeps")
        assert (largest_difference(found, base) < near) is (expected == "drops")
