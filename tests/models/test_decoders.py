"""What editing heads does to a decoder: one battery over the families of `tests/families.py`."""

from contextlib import contextmanager

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from lofit import HeadAdapter, head_layout
from tests.families import FAMILIES, HEADS, LAYERS, VOCABULARY, Family, build, positions

EDITED = [(0, 1), (0, 3), (1, 0), (1, 2)]
NEAR = {"rtol": 2e-4, "atol": 2e-4}
"""For float32 logits of a few units."""


@pytest.fixture(scope="module", params=FAMILIES)
def case(request):
    return FAMILIES[request.param], build(request.param, torch.float64)


@pytest.fixture(scope="module", params=FAMILIES)
def single(request):
    """In float32: eager attention takes its softmax in float32, where float64's lowest number, its mask, is not one."""
    return FAMILIES[request.param], build(request.param, torch.float32)


@pytest.fixture
def tokens():
    return torch.randint(3, VOCABULARY, (2, 7), generator=torch.Generator().manual_seed(1))


def test_the_layout_names_every_projection_of_the_family(case):
    family, model = case
    layout = head_layout(model)
    assert (layout.num_layers, layout.num_heads, layout.head_dim) == (LAYERS, HEADS, family.head_dim)
    assert layout.projections == family.projections
    assert layout.size == LAYERS * HEADS == len(layout.all_heads())
    assert layout.all_heads()[:2] == [(0, 0), (0, 1)] and layout.all_heads()[-1] == (LAYERS - 1, HEADS - 1)


def test_the_layout_can_be_told_the_name_of_the_projection(case):
    family, model = case
    *_, parent, own = family.projection.split(".")
    assert head_layout(model, projection=f"{parent}.{own}") == head_layout(model)


def test_the_layout_needs_no_weights(case):
    _, model = case
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(model.config)
    assert head_layout(skeleton) == head_layout(model)


def test_a_slice_belongs_to_the_head_whose_queries_make_it(case, tokens):
    family, model = case
    attention = model.get_submodule(family.projections[-1].rpartition(".")[0])
    weight = getattr(attention, family.queries).weight
    untouched, before = weight.clone(), projection_inputs(model, family, tokens)[-1]
    head, start = 2, family.blocks[2] * family.head_dim
    try:
        with torch.no_grad():
            # The opposite query: where queries are normalised over all heads, the others' stay what they are.
            rows = weight.T if family.queries == "c_attn" and family.config == "GPT2" else weight
            rows[start : start + family.head_dim] *= -1
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
    with HeadAdapter(head_layout(model).all_heads(), zeros, zeros).attach(model):
        assert torch.equal(model(tokens).logits, plain)


def test_every_head_alone_changes_the_logits(case, tokens):
    family, model = case
    plain = model(tokens).logits
    for head in head_layout(model).all_heads():
        with HeadAdapter([head], torch.ones(1, family.head_dim)).attach(model):
            assert (model(tokens).logits - plain).abs().max() > 1e-3, head


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
    torch.testing.assert_close(ours, theirs, rtol=family.tolerance, atol=family.tolerance)
    assert (ours - model(tokens).logits).abs().max() > 1e-2
    for name in names:
        gradient = by_hand[name].grad
        assert gradient.abs().max() > 1e-3
        near = max(1e-6, family.tolerance)
        torch.testing.assert_close(getattr(adapter, name).grad.double(), gradient, rtol=10 * near, atol=near)


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
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
    assert torch.equal(model(tokens).logits, plain)


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_and_batch_mates_do_not_change_an_edited_row(single, tokens, side):
    family, model = single
    batch, mask = pad_first_row(tokens, side)

    def rows():
        """The first row alone and padded, the second alone and beside it."""
        alone = model(tokens[:1, :4], attention_mask=torch.ones(1, 4, dtype=torch.long)).logits
        batched = model(batch, attention_mask=mask, **positions(model, mask)).logits
        return [(alone, batched[:1, mask[0].bool()]), (model(tokens[1:]).logits, batched[1:])]

    if side == "left" and family.left and (rows()[0][0] - rows()[0][1]).abs().max() > 0.1:
        pytest.skip(f"unedited too: {family.left}")
    with HeadAdapter(EDITED, **random_vectors(family)).attach(model):
        for alone, batched in rows():
            torch.testing.assert_close(batched, alone, **NEAR)


def test_generation_with_cache_is_generation_without(single, tokens):
    family, model = single
    batch, mask = (tokens, torch.ones_like(tokens)) if family.left else pad_first_row(tokens, "left")
    with HeadAdapter(EDITED, **random_vectors(family)).attach(model):
        cached, anew = (generate(model, batch, mask, use_cache=use_cache) for use_cache in (True, False))
        alone = generate(model, batch[:1, mask[0].bool()], mask[:1, mask[0].bool()], use_cache=False)
    plain = generate(model, batch, mask, use_cache=True)
    torch.testing.assert_close(cached, anew, **NEAR)
    torch.testing.assert_close(cached[:1], alone, **NEAR)
    assert ((cached - plain).abs().amax(dim=-1) > 1e-3).all()


def test_an_adapter_read_back_edits_alike(case, tokens, tmp_path):
    family, model = case
    adapter = HeadAdapter(EDITED[::-1], **random_vectors(family))
    adapter.save_pretrained(tmp_path)
    with adapter.attach(model):
        saved = model(tokens).logits
    with HeadAdapter.from_pretrained(tmp_path).attach(model):
        assert torch.equal(model(tokens).logits, saved)
    assert not torch.equal(model(tokens).logits, saved)


@pytest.mark.parametrize("name", FAMILIES)
def test_eager_and_sdpa_attention_agree_under_an_edit(name, tokens):
    family, eager = FAMILIES[name], build(name, torch.float32, "eager")
    if not eager._supports_sdpa:
        pytest.skip(f"transformers has no sdpa attention for {family.config}")
    batch, mask = pad_first_row(tokens, "right" if family.left else "left")
    sdpa = build(name, torch.float32, "sdpa")
    assert (eager.config._attn_implementation, sdpa.config._attn_implementation) == ("eager", "sdpa")

    def logits(model):
        return model(batch, attention_mask=mask, **positions(model, mask)).logits[mask.bool()]

    if family.kernels and (logits(eager) - logits(sdpa)).abs().max() > 0.01:
        pytest.skip(f"unedited too: {family.kernels}")
    adapter = HeadAdapter(EDITED, **random_vectors(family))
    with adapter.attach(eager), adapter.attach(sdpa):
        torch.testing.assert_close(logits(eager), logits(sdpa), **NEAR)


# ---------------------------------------------------------------------------------------------------------- helpers


def random_vectors(family: Family) -> dict[str, torch.Tensor]:
    """Multiples of 1/256, so that 1 + scale is exact in float32."""
    generator = torch.Generator().manual_seed(3)
    shape = (len(EDITED), family.head_dim)
    return {name: torch.randn(shape, generator=generator).mul(256).round() / 256 for name in ("scales", "offsets")}


def pad_first_row(tokens: torch.Tensor, side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The batch with its first row cut to 4 tokens and padded, and the mask that says so."""
    batch, mask = tokens.clone(), torch.ones_like(tokens)
    row, padding = (slice(3, None), slice(3)) if side == "left" else (slice(4), slice(4, None))
    batch[0, row] = tokens[0, :4]
    batch[0, padding] = mask[0, padding] = 0
    return batch, mask


def generate(model: nn.Module, batch: torch.Tensor, mask: torch.Tensor, *, use_cache: bool) -> torch.Tensor:
    """Logits of 6 greedy tokens: rows x 6 x vocabulary."""
    new = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "use_cache": use_cache}
    out = model.generate(batch, attention_mask=mask, output_logits=True, return_dict_in_generate=True, **new)
    return torch.stack(out.logits, dim=1)


def projection_inputs(model: nn.Module, family: Family, tokens: torch.Tensor) -> list[torch.Tensor]:
    """What each layer's output projection is given, edits included."""
    seen = []
    handles = [
        model.get_submodule(path).register_forward_hook(lambda module, args, output: seen.append(args[0]))
        for path in family.projections
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
        model.get_submodule(path).register_forward_pre_hook(edit(layer))
        for layer, path in enumerate(family.projections)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
