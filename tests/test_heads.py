"""Where the heads are and what editing them does: one battery over the families of decoders."""

from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM

from lofit import HeadAdapter, LofitError, head_layout

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
    changes: dict
    projection: str = "model.layers.{}.self_attn.o_proj"
    queries: str = "q_proj"
    """The module beside the projection whose rows are the queries of one head after the other."""
    stride: int = 1
    """3 where the rows of a head are its query, its key and its value."""
    head_dim: int = HIDDEN // HEADS


FAMILIES = {
    "llama": Family("Llama", {}),
    "llama, 2 kv heads": Family("Llama", {"num_key_value_heads": 2}),
    "llama, 1 kv head": Family("Llama", {"num_key_value_heads": 1}),
    "mistral": Family("Mistral", {"num_key_value_heads": 2, "sliding_window": 4}),
    "mixtral": Family("Mixtral", {"num_key_value_heads": 2, "num_local_experts": 2}),
    "qwen3": Family("Qwen3", {"num_key_value_heads": 2, "head_dim": 16}, head_dim=16),
    "gemma": Family("Gemma", {"num_key_value_heads": 1, "head_dim": 16}, head_dim=16),
    "gemma2": Family("Gemma2", {"num_key_value_heads": 2, "head_dim": 16, "sliding_window": 4}, head_dim=16),
    "phi3": Family("Phi3", {"num_key_value_heads": 2}, queries="qkv_proj"),
    "opt": Family(
        "OPT", {"ffn_dim": 48, "word_embed_proj_dim": HIDDEN}, projection="model.decoder.layers.{}.self_attn.out_proj"
    ),
    "gpt2": Family("GPT2", {}, projection="transformer.h.{}.attn.c_proj", queries="c_attn"),
    "gpt_neox": Family(
        "GPTNeoX", {}, projection="gpt_neox.layers.{}.attention.dense", queries="query_key_value", stride=3
    ),
}
EDITED = [(0, 1), (0, 3), (1, 0), (1, 2)]


@pytest.fixture(scope="module", params=FAMILIES)
def case(request):
    family = FAMILIES[request.param]
    config = getattr(transformers, f"{family.config}Config")(**SHAPE, **TOKENS, **family.changes)
    torch.manual_seed(0)
    # The grouped kernel of mixtures of experts knows no float64.
    model = AutoModelForCausalLM.from_config(config, experts_implementation="eager")
    model = model.double().eval().requires_grad_(False)
    for name, weight in model.named_parameters():
        # The usual initial weights make attention almost uniform and every edit almost nothing.
        if weight.ndim > 1:
            nn.init.normal_(weight, std=0.3)
        elif name.endswith("bias"):
            nn.init.normal_(weight, std=0.1)
    return family, model


@pytest.fixture
def tokens():
    return torch.randint(3, VOCABULARY, (2, 7), generator=torch.Generator().manual_seed(1))


def test_the_layout_names_every_projection_of_the_family(case):
    family, model = case
    layout = head_layout(model)
    assert (layout.num_layers, layout.num_heads, layout.head_dim) == (LAYERS, HEADS, family.head_dim)
    assert layout.projections == tuple(family.projection.format(layer) for layer in range(LAYERS))
    assert layout.size == LAYERS * HEADS == len(layout.grid())
    assert layout.grid()[:2] == [(0, 0), (0, 1)] and layout.grid()[-1] == (LAYERS - 1, HEADS - 1)


def test_the_layout_needs_no_weights(case):
    _, model = case
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(model.config)
    assert head_layout(skeleton) == head_layout(model)


def test_a_slice_belongs_to_the_head_whose_queries_make_it(case, tokens):
    family, model = case
    attention = model.get_submodule(family.projection.format(LAYERS - 1).rpartition(".")[0])
    weight = getattr(attention, family.queries).weight
    untouched, before = weight.clone(), projection_inputs(model, family, tokens)[-1]
    head, rows = 2, slice(2 * family.stride * family.head_dim, (2 * family.stride + 1) * family.head_dim)
    try:
        with torch.no_grad():
            (weight.T if family.config == "GPT2" else weight)[rows] += 1.0
        after = projection_inputs(model, family, tokens)[-1]
    finally:
        weight.data.copy_(untouched)
    moved = (after - before).unflatten(-1, (HEADS, family.head_dim)).abs().amax(dim=(0, 1, 3))
    assert moved[head] > 1e-6
    assert moved[[0, 1, 3]].max() == 0


def test_zero_vectors_leave_every_logit_as_it_was(case, tokens):
    family, model = case
    zeros = torch.zeros(LAYERS * HEADS, family.head_dim)
    plain = model(tokens).logits
    with HeadAdapter(head_layout(model).grid(), zeros, zeros).attach(model):
        assert torch.equal(model(tokens).logits, plain)


@pytest.mark.parametrize("vectors", ["scales", "offsets", "both"])
def test_logits_and_gradients_are_those_of_a_loop_over_heads(case, tokens, vectors):
    family, model = case
    names = ("scales", "offsets") if vectors == "both" else (vectors,)
    values = random_vectors(family)
    adapter = HeadAdapter(EDITED, **{name: values[name] for name in names})
    by_hand = {name: values[name].double().requires_grad_() for name in names}
    weights = torch.randn(VOCABULARY, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    with adapter.attach(model):
        ours = model(tokens).logits
        (ours * weights).sum().backward()
    with edited_by_hand(model, family, **by_hand):
        theirs = model(tokens).logits
        (theirs * weights).sum().backward()
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    assert (ours - model(tokens).logits).abs().max() > 1e-2
    for name in names:
        gradient = by_hand[name].grad
        assert gradient.abs().max() > 1e-3
        torch.testing.assert_close(getattr(adapter, name).grad.double(), gradient, rtol=1e-5, atol=1e-6)


def test_an_edit_stays_in_its_slice_and_leaves_earlier_layers_alone(case, tokens):
    family, model = case
    before = projection_inputs(model, family, tokens)
    with HeadAdapter([(1, 2)], torch.ones(1, family.head_dim)).attach(model):
        after = projection_inputs(model, family, tokens)
    assert torch.equal(after[0], before[0])
    moved = (after[1] - before[1]).unflatten(-1, (HEADS, family.head_dim))
    torch.testing.assert_close(moved[:, :, 2], torch.ones_like(moved[:, :, 2]))
    assert moved[:, :, [0, 1, 3]].abs().max() == 0


def test_an_edit_reaches_later_layers(case, tokens):
    family, model = case
    before = projection_inputs(model, family, tokens)
    with HeadAdapter([(0, 2)], torch.ones(1, family.head_dim)).attach(model):
        after = projection_inputs(model, family, tokens)
    assert (after[1] - before[1]).abs().max() > 1e-6


@pytest.mark.parametrize("failing", [False, True])
def test_no_hook_outlives_the_block(case, tokens, failing):
    family, model = case
    plain = model(tokens).logits
    adapter = HeadAdapter(EDITED, **random_vectors(family))
    if failing:
        with pytest.raises(KeyError), adapter.attach(model):
            assert not torch.equal(model(tokens).logits, plain)
            raise KeyError
    else:
        with adapter.attach(model):
            assert not torch.equal(model(tokens).logits, plain)
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert torch.equal(model(tokens).logits, plain)


def test_padding_and_batch_mates_do_not_change_an_edited_row(case, tokens):
    family, model = case
    short = tokens[:1, :4]
    padded = torch.cat([torch.cat([short, torch.zeros(1, 3, dtype=torch.long)], dim=1), tokens])
    mask = torch.ones_like(padded)
    mask[0, 4:] = 0
    with HeadAdapter(EDITED, **random_vectors(family)).attach(model):
        alone = model(short, attention_mask=torch.ones_like(short)).logits
        batched = model(padded, attention_mask=mask).logits
        torch.testing.assert_close(batched[:1, :4], alone, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(batched[1:2], model(tokens[:1]).logits, rtol=1e-9, atol=1e-9)


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
        LofitError, match=f"^{type(model).__name__}: no attention output projection found; allowed: .*$"
    ):
        head_layout(model)


def test_layers_of_different_heads_are_refused(make_model):
    model = make_model()
    model.model.layers[1].self_attn.o_proj = nn.Linear(64, 32)
    with pytest.raises(LofitError, match=r"4 attention heads .* \[32, 64\] numbers; allowed: "):
        head_layout(model)


# ---------------------------------------------------------------------------------------------------------- helpers


def random_vectors(family: Family) -> dict[str, torch.Tensor]:
    """Multiples of 1/256, so that 1 + scale is exact in float32."""
    generator = torch.Generator().manual_seed(3)
    shape = (len(EDITED), family.head_dim)
    return {name: torch.randn(shape, generator=generator).mul(256).round() / 256 for name in ("scales", "offsets")}


def projection_inputs(model: nn.Module, family: Family, tokens: torch.Tensor) -> list[torch.Tensor]:
    """What each layer's output projection is given, edits included."""
    seen = []
    handles = [
        model.get_submodule(family.projection.format(layer)).register_forward_hook(
            lambda module, args, output: seen.append(args[0])
        )
        for layer in range(LAYERS)
    ]
    model(tokens)
    for handle in handles:
        handle.remove()
    return seen


@contextmanager
def edited_by_hand(model: nn.Module, family: Family, scales=None, offsets=None):
    """z <- (1 + scale) * z + offset for one head after another, on a list of slices."""

    def edit(layer):
        def hook(module, args):
            slices = list(args[0].split(family.head_dim, dim=-1))
            for row, (at, head) in enumerate(EDITED):
                if at == layer:
                    scale = 0 if scales is None else scales[row]
                    offset = 0 if offsets is None else offsets[row]
                    slices[head] = (1 + scale) * slices[head] + offset
            return (torch.cat(slices, dim=-1),)

        return hook

    handles = [
        model.get_submodule(family.projection.format(layer)).register_forward_pre_hook(edit(layer))
        for layer in range(LAYERS)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
