"""The families of decoders that the battery runs over, as tiny random models."""

import inspect
from dataclasses import dataclass, field
from functools import cache

import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM

HIDDEN, HEADS, LAYERS, VOCABULARY = 32, 4, 2, 96
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": 64,
}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


@dataclass(frozen=True)
class Family:
    """A kind of decoder: its config, its output projection by layer, and where its queries are made."""

    config: str
    changes: dict = field(default_factory=dict)
    projection: str = "model.layers.{}.self_attn.o_proj"
    queries: str = "q_proj"
    """The module beside the projection whose rows hold the queries."""
    blocks: tuple[int, ...] = (0, 1, 2, 3)
    """Where each head's query begins among those rows, counted in head_dim."""
    head_dim: int = HIDDEN // HEADS
    layers: tuple[int, ...] = (0, 1)
    """The layers that have heads."""
    tolerance: float = 1e-9
    """How far two ways to the same float64 logits may be apart; more where layers work in float32 whatever they get."""
    left: str | None = None
    """Why the model itself, unedited, answers otherwise to a row padded on the left."""
    kernels: str | None = None
    """Why eager and sdpa attention do not agree in the model itself, unedited."""

    @property
    def projections(self) -> tuple[str, ...]:
        return tuple(self.projection.format(layer) for layer in self.layers)


GROUPED = {"num_key_value_heads": 2}
WIDE = {"num_key_value_heads": 2, "head_dim": 16}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
FUSED = {"queries": "query_key_value", "blocks": (0, 3, 6, 9)}
GPT = {"projection": "transformer.h.{}.attn.c_proj", "queries": "c_attn"}
FALCON = {"projection": "transformer.h.{}.self_attention.dense", "queries": "query_key_value"}
LATENT = {
    **{"q_lora_rank": 12, "kv_lora_rank": 10, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8},
    **{"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "moe_intermediate_size": 16},
    **{"first_k_dense_replace": 1, "num_key_value_heads": HEADS},
}

PLAIN = {
    "llama": Family("Llama"),
    "llama, 2 kv heads": Family("Llama", GROUPED),
    "llama, 1 kv head": Family("Llama", {"num_key_value_heads": 1}),
    "mistral": Family("Mistral", {**GROUPED, "sliding_window": 4}),
    "mixtral": Family("Mixtral", {**GROUPED, "num_local_experts": 2}),
    "qwen2": Family("Qwen2", GROUPED),
    "qwen3": Family("Qwen3", WIDE, head_dim=16),
    "qwen3_moe": Family("Qwen3Moe", {**WIDE, **EXPERTS}, head_dim=16),
    "gemma": Family("Gemma", {"num_key_value_heads": 1, "head_dim": 16}, head_dim=16),
    "gemma2": Family("Gemma2", {**WIDE, "sliding_window": 4}, head_dim=16),
    "gemma3": Family(
        "Gemma3Text",
        {**WIDE, "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]},
        head_dim=16,
    ),
    "phi": Family("Phi", GROUPED, projection="model.layers.{}.self_attn.dense"),
    "phi3": Family("Phi3", GROUPED, queries="qkv_proj"),
    "olmo2": Family("Olmo2", GROUPED),
    "opt": Family(
        "OPT", {"ffn_dim": 48, "word_embed_proj_dim": HIDDEN}, projection="model.decoder.layers.{}.self_attn.out_proj"
    ),
    "gpt2": Family("GPT2", **GPT),
    "gpt_neox": Family("GPTNeoX", projection="gpt_neox.layers.{}.attention.dense", **FUSED),
    "gpt_neo": Family(
        "GPTNeo",
        {"attention_types": [[["global", "local"], 1]], "window_size": 4},
        projection="transformer.h.{}.attn.attention.out_proj",
    ),
    "gpt_bigcode": Family("GPTBigCode", {"multi_query": True}, **GPT),
    "gptj": Family("GPTJ", {"rotary_dim": 4}, projection="transformer.h.{}.attn.out_proj"),
    "codegen": Family(
        "CodeGen",
        {"rotary_dim": 4},
        projection="transformer.h.{}.attn.out_proj",
        **{**FUSED, "queries": "qkv_proj"},
    ),
    "bloom": Family("Bloom", projection="transformer.h.{}.self_attention.dense", **FUSED),
    "mpt": Family("Mpt", projection="transformer.blocks.{}.attn.out_proj", queries="Wqkv"),
    "falcon, multi-query": Family("Falcon", {"multi_query": True}, **FALCON),
    "falcon, alibi": Family(
        "Falcon",
        {"multi_query": False, "alibi": True},
        kernels="eager and sdpa attention differ",
        **{**FALCON, **FUSED},
    ),
    "falcon, new decoder": Family(
        "Falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}, **FALCON, blocks=(0, 1, 4, 5)
    ),
    "starcoder2": Family("Starcoder2", {**GROUPED, "sliding_window": 4}),
    "granite": Family("Granite", GROUPED),
    "cohere": Family("Cohere", {**GROUPED, "use_qk_norm": True}),
    "stablelm": Family("StableLm", {**GROUPED, "use_parallel_residual": True, "qk_layernorm": True}),
    "glm4": Family("Glm4", WIDE, head_dim=16),
    "gpt_oss": Family("GptOss", {**WIDE, "num_local_experts": 4, "sliding_window": 4}, head_dim=16),
    "deepseek_v3": Family("DeepseekV3", LATENT, queries="q_b_proj", blocks=(0, 2, 4, 6)),
    "bart": Family(
        "Bart",
        # The heads of the encoder that it once had go by the name that a decoder's have elsewhere.
        {"d_model": HIDDEN, "decoder_layers": LAYERS, "decoder_attention_heads": HEADS, "num_attention_heads": 8},
        projection="model.decoder.layers.{}.self_attn.out_proj",
        left="transformers counts its positions from the first padding token",
    ),
}

ALTERNATING = {"num_hidden_layers": 4, "layer_types": ["linear_attention", "full_attention"] * 2}
MAMBA2 = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_chunk_size": 8, "mamba_d_conv": 4}
DELTA = {
    **{"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8},
    "linear_conv_kernel_dim": 4,
}
ODD = {"layers": (1, 3), "tolerance": 1e-4}

HYBRID = {
    "qwen3_next": Family(
        "Qwen3Next",
        {**WIDE, **ALTERNATING, **EXPERTS, **DELTA, "shared_expert_intermediate_size": 16},
        head_dim=16,
        # A head's rows are its query and its gate.
        blocks=(0, 2, 4, 6),
        **ODD,
    ),
    "olmo_hybrid": Family("OlmoHybrid", {**GROUPED, **ALTERNATING, **DELTA, "linear_num_value_heads": 2}, **ODD),
    "minimax": Family(
        "MiniMax",
        {**GROUPED, **ALTERNATING, "head_dim": 8, "num_local_experts": 2},
        left="its cached linear attention takes padding for tokens",
        **ODD,
    ),
    "lfm2": Family(
        "Lfm2",
        {**GROUPED, "num_hidden_layers": 4, "layer_types": ["conv", "full_attention"] * 2, "block_multiple_of": 16},
        projection="model.layers.{}.self_attn.out_proj",
        **ODD,
    ),
    "kimi_linear": Family(
        "KimiLinear",
        {
            **{**ALTERNATING, **LATENT, "q_lora_rank": None, "num_local_experts": 4, "n_shared_experts": 1},
            **{"linear_num_heads": 2, "linear_head_dim": 16, "linear_conv_kernel_dim": 4},
            "mlp_layer_types": ["dense", "sparse"] * 2,
        },
        blocks=(0, 2, 4, 6),
        **ODD,
    ),
    "jamba": Family(
        "Jamba",
        {
            **{**GROUPED, "num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2},
            **{"mamba_d_state": 8, "mamba_dt_rank": 4, "use_mamba_kernels": False},
        },
        **ODD,
    ),
    "bamba": Family("Bamba", {**GROUPED, **MAMBA2, "num_hidden_layers": 4, "attn_layer_indices": [1, 3]}, **ODD),
    "falcon_h1": Family("FalconH1", {**GROUPED, **MAMBA2, "mamba_d_ssm": 64}, tolerance=1e-4),
    "granitemoehybrid": Family("GraniteMoeHybrid", {**GROUPED, **ALTERNATING, **MAMBA2, "num_local_experts": 2}, **ODD),
    "nemotron_h": Family(
        "NemotronH",
        {
            **{**WIDE, "num_hidden_layers": 4, "layers_block_type": ["linear_attention", "full_attention"] * 2},
            **{"mamba_num_heads": 8, "mamba_head_dim": 8, "ssm_state_size": 8, "n_groups": 1, "chunk_size": 8},
            "use_mamba_kernels": False,
        },
        projection="model.layers.{}.mixer.o_proj",
        head_dim=16,
        **ODD,
    ),
    "recurrent_gemma": Family(
        "RecurrentGemma",
        {
            **{"num_hidden_layers": 4, "block_types": ["recurrent", "attention"], "num_key_value_heads": 1},
            **{"lru_width": HIDDEN, "attention_window_size": 16},
        },
        projection="model.layers.{}.temporal_block.o_proj",
        left="its recurrence runs through the padding",
        **ODD,
    ),
}

FAMILIES = {**PLAIN, **HYBRID}


@cache
def build(name: str, dtype: torch.dtype, attention: str | None = None) -> nn.Module:
    """A frozen model of the family, always with the same random weights, as every test must leave it."""
    family = FAMILIES[name]
    config = getattr(transformers, f"{family.config}Config")(**{**SHAPE, **TOKENS, **family.changes})
    torch.manual_seed(0)
    # The grouped kernel of mixtures of experts knows no float64.
    model = AutoModelForCausalLM.from_config(config, experts_implementation="eager", attn_implementation=attention)
    model = model.to(dtype).eval().requires_grad_(False)
    for path, weight in model.named_parameters():
        # The usual initial weights make attention almost uniform and every edit almost nothing.
        if weight.ndim > 1 and "A_log" not in path:
            nn.init.normal_(weight, std=0.3)
        elif path.endswith("bias"):
            nn.init.normal_(weight, std=0.1)
    return model


def positions(model: nn.Module, mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """Positions that begin at a row's first token, for the models that do not count them from the mask."""
    counted = "position_ids" not in inspect.signature(model.forward).parameters
    return {} if counted else {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)}


@torch.no_grad()
def logits(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    return model(tokens).logits.float()


def hooked(model: nn.Module, adapter: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """The logits with an adapter attached."""
    with adapter.attach(model):
        return logits(model, tokens)


def assert_unchanged(model: nn.Module, name: str) -> None:
    """A model of this family is what `build` gives, and nothing is attached to it."""
    before = build(name, torch.float32)
    assert model.config.to_dict() == before.config.to_dict()
    assert model.state_dict().keys() == before.state_dict().keys()
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.state_dict().items())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
