"""Tiny GGUF files, written as llama.cpp's converter would, and the models that they were made from."""

from pathlib import Path

import gguf
import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.convert_slow_tokenizer import bytes_to_unicode

CONTROL, NORMAL, BYTE, UNKNOWN = 3, 1, 6, 2
ARCHITECTURES = {
    "llama": (gguf.MODEL_ARCH.LLAMA, "llama"),
    "qwen2": (gguf.MODEL_ARCH.QWEN2, "qwen2"),
    "qwen3": (gguf.MODEL_ARCH.QWEN3, "qwen3"),
    "gemma3": (gguf.MODEL_ARCH.GEMMA3, "gemma3_text"),
}
HEADS, KV_HEADS, SIZE = 4, 2, 64
MERGES = [("Ġ", "Ġ"), ("1", "2"), ("t", "h"), ("th", "e"), ("Ġ", "the")]


def layers_of(name):
    """Gemma has one layer of six that sees further than its window."""
    return 6 if name == "gemma3" else 2


def head_dim_of(name):
    """Heads of Qwen 3 have one size, which transformers takes for granted."""
    return 128 if name == "qwen3" else 16


def tiny_model(name, vocabulary, *, tied=False):
    """A random model of an architecture of GGUF."""
    config = AutoConfig.for_model(
        ARCHITECTURES[name][1],
        vocab_size=vocabulary,
        hidden_size=SIZE,
        intermediate_size=96,
        num_hidden_layers=layers_of(name),
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=head_dim_of(name),
        max_position_embeddings=128,
        tie_word_embeddings=tied,
        query_pre_attn_scalar=head_dim_of(name),
        sliding_window=8,
        use_sliding_window=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(config).eval()
    for path, weight in model.named_parameters():
        # Norms of one would hide a fault in them, and small weights a fault in a head.
        torch.nn.init.normal_(weight, 0.5 if "norm" in path else 0.0, 0.2)
    return model


def byte_level_tokens():
    """Tokens and merges of a tokenizer that can write every text."""
    tokens = ["<pad>", "<s>", "</s>", *sorted(bytes_to_unicode().values()), *("".join(merge) for merge in MERGES)]
    return tokens, [CONTROL] * 3 + [NORMAL] * (len(tokens) - 3)


def sentencepiece_tokens():
    """Tokens, types and scores of a tokenizer with bytes to fall back to."""
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    pieces = ["\u2581", *"abcdefghijklmnopqrstuvwxyz0123456789,", "th", "the", "\u2581the"]
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    types = [CONTROL] * 3 + [UNKNOWN] + [BYTE] * 256 + [NORMAL] * len(pieces)
    return tokens, types, [0.0] * 260 + [-float(place) for place in range(len(pieces))]


def write_gguf(file: Path, name="llama", *, quantised=False, tied=False, split="gpt-2", extra=(), more=None):
    """Write a tiny model of an architecture into `file`.

    Args:
        quantised: in Q8_0, all but the norms.
        extra: names of further tensors.
        more: further keys, as functions of the writer.

    Returns:
        The model, with the values that the file stands for.
    """
    spiece = name == "gemma3"
    tokens, types = sentencepiece_tokens()[:2] if spiece else byte_level_tokens()
    if name.startswith("qwen"):
        # So it is called there, and split there.
        tokens[0], split = "<|endoftext|>", "qwen2"
    model = tiny_model(name, len(tokens), tied=tied or spiece)
    writer = gguf.GGUFWriter(file, name)
    write_metadata(writer, model.config, spiece)
    write_tokenizer(writer, tokens, types, spiece, split)
    for key in more or ():
        key(writer)
    names = gguf.get_tensor_name_map(ARCHITECTURES[name][0], layers_of(name))
    for path, weight in model.named_parameters():
        values = weight.detach().numpy()
        if name == "llama" and path.endswith(("q_proj.weight", "k_proj.weight")):
            values = permuted(values, HEADS if "q_proj" in path else KV_HEADS)
        if spiece and "norm" in path:
            values = values + np.float32(1)
        place = names.get_name(path, try_suffixes=(".weight", ".bias"))
        if quantised and values.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            blocks = gguf.quants.quantize(values, kind)
            writer.add_tensor(place, blocks, raw_dtype=kind)
            stood_for = gguf.quants.dequantize(blocks, kind)
            permute = path.endswith(("q_proj.weight", "k_proj.weight"))
            heads = HEADS if "q_proj" in path else KV_HEADS
            weight.data = torch.from_numpy(unpermuted(stood_for, heads) if permute else stood_for)
        else:
            writer.add_tensor(place, np.ascontiguousarray(values))
    for place in extra:
        writer.add_tensor(place, np.ones(8, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def write_metadata(writer, config, spiece):
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(SIZE)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    theta = config.rope_parameters.get("full_attention", config.rope_parameters)["rope_theta"]
    writer.add_rope_freq_base(theta)
    if config.model_type in ("qwen3", "gemma3_text"):
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    if config.model_type == "llama":
        writer.add_rope_dimension_count(config.head_dim)
        writer.add_vocab_size(config.vocab_size)
    if spiece:
        writer.add_sliding_window(config.sliding_window)


def write_tokenizer(writer, tokens, types, spiece, split):
    writer.add_tokenizer_model("llama" if spiece else "gpt2")
    writer.add_tokenizer_pre("default" if spiece else split)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    if spiece:
        writer.add_token_scores(sentencepiece_tokens()[2])
        writer.add_unk_token_id(3)
        writer.add_add_space_prefix(False)
    else:
        writer.add_token_merges([" ".join(merge) for merge in MERGES])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(spiece)
    writer.add_chat_template("{% for message in messages %}{{ message['content'] }}{% endfor %}")


def permuted(values, heads):
    """Rows of a head as llama.cpp rotates them: pairs next to each other."""
    rows = values.shape[0] // heads
    return values.reshape(heads, 2, rows // 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def unpermuted(values, heads):
    rows = values.shape[0] // heads
    return values.reshape(heads, rows // 2, 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
