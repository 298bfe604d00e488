"""Adapters together: sums and strengths, several at once, and under everything that runs a model."""

from itertools import permutations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lofit import HeadAdapter, LofitError
from lofit.adapters.provenance import Provenance

TOKENS = torch.tensor([[5, 17, 40, 8, 99, 3]])
HEADS = [(0, 1), (1, 2)]
OTHERS = [(1, 2), (0, 3)]


def random(heads, *names, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return HeadAdapter(heads, **{name: torch.randn(len(heads), 8, generator=generator) for name in names})


@pytest.fixture
def adapters():
    return random(HEADS, "offsets"), random(OTHERS, "offsets", seed=1)


def test_a_strength_multiplies_both_vectors():
    adapter = random(HEADS, "offsets", "scales")
    half, also = adapter * 0.5, 0.5 * adapter
    assert half.heads == HEADS
    assert torch.equal(half.offsets, adapter.offsets / 2) and torch.equal(half.scales, adapter.scales / 2)
    assert torch.equal(also.offsets, half.offsets)
    assert half.offsets.is_leaf and half.offsets.requires_grad


def test_strength_1_is_the_adapter_and_strength_0_nothing(model):
    adapter = random(HEADS, "offsets", "scales")
    plain = model(TOKENS).logits
    assert torch.equal(logits(model, adapter * 1), logits(model, adapter))
    assert torch.equal(logits(model, adapter * 0), plain)
    assert not torch.equal(logits(model, adapter * -1), plain)


def test_a_sum_has_the_heads_of_both_and_adds_the_vectors_they_share(adapters):
    one, other = adapters
    total = one + other
    assert total.heads == [(0, 1), (0, 3), (1, 2)]
    assert torch.equal(
        total.offsets, torch.stack([one.offsets[0], other.offsets[1], one.offsets[1] + other.offsets[0]])
    )
    assert total.scales is None


@pytest.mark.parametrize("others", [OTHERS, [(0, 0)], HEADS], ids=["overlapping", "disjoint", "same"])
def test_a_sum_of_offsets_does_what_both_do_together(model, others):
    one, other = random(HEADS, "offsets"), random(others, "offsets", seed=1)
    with one.attach(model):
        together = logits(model, other)
    torch.testing.assert_close(logits(model, one + other), together, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits(model, other + one), together, rtol=1e-5, atol=1e-5)
    assert (together - logits(model, one)).abs().max() > 1e-3


def test_scales_and_offsets_add_up_where_one_adapter_lacks_the_other_kind(model):
    one, other = random(HEADS, "scales"), random(OTHERS, "offsets", seed=1)
    total = one + other
    # (1 + scale) z, then + offset.
    with one.attach(model):
        together = logits(model, other)
    torch.testing.assert_close(logits(model, total), together, rtol=1e-5, atol=1e-6)
    assert total.scales[total.heads.index((0, 3))].abs().max() == 0


def test_a_sum_with_nothing_is_the_other_adapter(model, adapters):
    assert torch.equal((adapters[0] + HeadAdapter([])).offsets, adapters[0].offsets)
    assert (HeadAdapter([]) + HeadAdapter([])).heads == []


def test_what_a_sum_comes_from_is_told():
    one, other = (
        HeadAdapter(
            HEADS,
            torch.ones(2, 8),
            provenance=Provenance(base_model="base", num_layers=2, training={"task": task}, metrics={"mc1": 1}),
        )
        for task in ("first", "second")
    )
    total = (one + other * 0.5).provenance
    assert total.base_model == "base" and total.num_layers == 2 and total.metrics == {}
    assert total.training == {"sum_of": [{"task": "first"}, {"strength": 0.5, "of": {"task": "second"}}]}


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        (
            {"num_layers": 2},
            {"num_layers": 3},
            r"got adapters with num_layers \[2, 3\]; expected adapters for one model",
        ),
        (
            {"target_module": "a.o"},
            {"target_module": "b.o"},
            r"got adapters with target_module \['a.o', 'b.o'\];",
        ),
    ],
)
def test_adapters_for_two_models_are_not_added(one, other, words):
    first, second = (HeadAdapter(HEADS, torch.ones(2, 8), provenance=Provenance(**known)) for known in (one, other))
    with pytest.raises(LofitError, match=words):
        first + second


def test_adapters_of_other_widths_are_not_added(adapters):
    with pytest.raises(LofitError, match="got vectors of 8 and of 16 numbers; expected"):
        adapters[0] + HeadAdapter([(0, 0)], torch.ones(1, 16))


@pytest.mark.parametrize("other", ["0.5", None, torch.ones(2)])
def test_a_strength_that_is_no_number_is_a_type_error(adapters, other):
    with pytest.raises(TypeError):
        adapters[0] * other
    with pytest.raises(TypeError):
        adapters[0] + other


@pytest.mark.parametrize("order", permutations(range(3)))
def test_three_adapters_can_leave_in_any_order_and_the_base_is_what_it_was(make_model, order):
    three = [random(HEADS, "offsets"), random(OTHERS, "offsets", seed=1), random([(0, 1)], "offsets", seed=2)]
    model, other = make_model(), make_model()
    plain = model(TOKENS).logits
    attached = [adapter.attach(model) for adapter in three]
    for left in (order[1:], order[2:], ()):
        attached[order[2 - len(left)]].detach()
        rest = sum((three[index] for index in left), HeadAdapter([]))
        torch.testing.assert_close(model(TOKENS).logits, logits(other, rest), rtol=1e-5, atol=1e-6)
    assert torch.equal(model(TOKENS).logits, plain)
    assert all(torch.equal(weight, other.state_dict()[name]) for name, weight in model.state_dict().items())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


def test_an_exception_in_the_block_leaves_the_base_as_it_was(model, adapters):
    plain = model(TOKENS).logits
    with pytest.raises(KeyboardInterrupt), adapters[0].attach(model), adapters[1].attach(model):
        model(TOKENS)
        raise KeyboardInterrupt
    assert torch.equal(model(TOKENS).logits, plain)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("cache", [True, False])
def test_generation_is_that_of_a_model_with_the_offsets_in_its_biases(beams, cache):
    model, folded, adapter = with_biases(), with_biases(), random(HEADS, "offsets") * 4
    for (layer, head), offset in zip(adapter.heads, adapter.offsets.detach(), strict=True):
        projection = folded.model.layers[layer].self_attn.o_proj
        projection.bias.data += projection.weight[:, head * 8 : head * 8 + 8] @ offset
    options = {"max_new_tokens": 12, "num_beams": beams, "use_cache": cache, "do_sample": False, "pad_token_id": 0}
    prompts = torch.tensor([[5, 17, 40, 8], [9, 2, 33, 7]])
    plain, wanted = model.generate(prompts, **options), folded.generate(prompts, **options)
    with adapter.attach(model):
        assert torch.equal(model.generate(prompts, **options), wanted)
    assert torch.equal(model.generate(prompts, **options), plain)
    assert not torch.equal(wanted, plain)


@pytest.mark.parametrize("whole", [False, True], ids=["graphs", "one graph"])
def test_compiled_models_see_adapters_come_and_go(model, adapters, whole):
    one, other = adapters
    with torch.no_grad():
        plain, edited = model(TOKENS).logits, logits(model, one)
        compiled = torch.compile(model, backend="eager", fullgraph=whole)
        assert torch.equal(compiled(TOKENS).logits, plain)
        # The code compiled above must not be used on.
        with one.attach(model):
            assert torch.equal(compiled(TOKENS).logits, edited)
            with other.attach(model):
                assert not torch.equal(compiled(TOKENS).logits, edited)
            assert torch.equal(compiled(TOKENS).logits, edited)
        assert torch.equal(compiled(TOKENS).logits, plain)


def test_an_adapter_attaches_to_the_compiled_object_too(model, adapters):
    with torch.no_grad():
        edited = logits(model, adapters[0])
        compiled = torch.compile(model, backend="eager")
        with adapters[0].attach(compiled):
            assert torch.equal(compiled(TOKENS).logits, edited)


def test_gradients_pass_through_compiled_code(model):
    adapter = random(HEADS, "offsets", "scales")
    with adapter.attach(model):
        model(TOKENS).logits.logsumexp(-1).sum().backward()
        eager = [vector.grad.clone() for vector in adapter.parameters()]
        adapter.zero_grad()
        torch.compile(model, backend="aot_eager")(TOKENS).logits.logsumexp(-1).sum().backward()
    for ours, theirs in zip(adapter.parameters(), eager, strict=True):
        torch.testing.assert_close(ours.grad, theirs)
        assert theirs.abs().max() > 0


def with_biases():
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, attention_bias=True, initializer_range=0.3, **shape)).eval()
    for layer in model.model.layers:
        torch.nn.init.zeros_(layer.self_attn.o_proj.bias)
    return model


def logits(model, adapter):
    with adapter.attach(model), torch.no_grad():
        return model(TOKENS).logits
