"""HeadAdapter: its vectors, and its attachment to a model."""

from dataclasses import replace

import pytest
import torch
from accelerate import cpu_offload

from lofit import HeadAdapter, LofitError, head_layout
from lofit.training.initial import fresh_vectors

HEADS = [(1, 2), (0, 3), (0, 1)]
TOKENS = torch.tensor([[5, 17, 40, 8, 99, 3]])


def test_vectors_stay_float32_and_act_on_a_bfloat16_model(make_model):
    model = make_model().bfloat16()
    plain = model(TOKENS).logits
    # In bfloat16, 1 + 0.003 is 1.
    adapter = HeadAdapter(head_layout(model).all_heads(), scales=torch.full((8, 8), 0.003))
    assert adapter.scales.dtype == torch.float32
    with adapter.attach(model):
        edited = model(TOKENS).logits
        edited.float().logsumexp(-1).sum().backward()
    assert edited.dtype == torch.bfloat16
    assert not torch.equal(edited, plain)
    assert (adapter.scales.grad != 0).all()


@pytest.mark.parametrize("name", ["scales", "offsets"])
def test_gradients_reach_what_a_vector_was_computed_from(model, name):
    gate = torch.tensor(0.5, requires_grad=True)
    adapter = HeadAdapter(HEADS, **{name: gate * torch.ones(3, 8)})
    with adapter.attach(model):
        model(TOKENS).logits.logsumexp(-1).sum().backward()
    assert gate.grad.abs() > 0
    assert list(adapter.parameters()) == []


def test_a_parameter_is_used_as_it_is_and_any_other_tensor_is_copied():
    parameter, tensor = torch.nn.Parameter(torch.zeros(3, 8)), torch.zeros(3, 8)
    adapter = HeadAdapter(HEADS, offsets=parameter, scales=tensor)
    assert adapter.offsets is parameter
    assert adapter.scales.requires_grad
    tensor += 1
    assert adapter.scales.abs().max() == 0


@pytest.mark.parametrize("names", [("scales",), ("offsets",), ("scales", "offsets")])
def test_exactly_k_times_head_dim_numbers_learn(model, names):
    adapter = HeadAdapter(HEADS, **{name: torch.randn(3, 8) for name in names})
    assert sum(vector.numel() for vector in adapter.parameters()) == len(names) * 3 * 8
    with adapter.attach(model):
        model(TOKENS).logits.logsumexp(-1).sum().backward()
    assert all((vector.grad != 0).all() for vector in adapter.parameters())
    assert all(weight.grad is None for weight in model.parameters())


def test_the_order_in_which_heads_are_named_does_not_matter(model):
    offsets = torch.randn(3, 8)
    turned = HeadAdapter(HEADS[::-1], offsets.flip(0))
    assert torch.equal(logits(model, HeadAdapter(HEADS, offsets)), logits(model, turned))


def test_a_layer_without_edited_heads_gets_no_hook(model):
    with HeadAdapter([(1, 0)], torch.ones(1, 8)).attach(model):
        hooked = [name for name, module in model.named_modules() if module._forward_pre_hooks]
    assert hooked == ["model.layers.1.self_attn.o_proj"]


def test_an_adapter_without_vectors_changes_nothing(model):
    plain = model(TOKENS).logits
    with HeadAdapter([]).attach(model):
        assert torch.equal(model(TOKENS).logits, plain)


def test_nested_adapters_act_one_after_the_other(model):
    first, second = torch.randn(2, 1, 8).mul(16).round() / 16
    inner = HeadAdapter([(0, 1)], scales=second)
    plain = model(TOKENS).logits
    with HeadAdapter([(0, 1)], offsets=first).attach(model):
        outer_alone = model(TOKENS).logits
        both = logits(model, inner)
        assert torch.equal(model(TOKENS).logits, outer_alone)
    assert torch.equal(model(TOKENS).logits, plain)
    # (1 + scale) * (z + offset)
    torch.testing.assert_close(both, logits(model, HeadAdapter([(0, 1)], (1 + second) * first, second)))
    assert (both - outer_alone).abs().max() > 1e-3


def test_an_outer_adapter_may_leave_before_an_inner_one(model):
    one, other = (HeadAdapter([head], torch.ones(1, 8)) for head in ((0, 1), (0, 2)))
    outer = one.attach(model)
    inner = other.attach(model)
    outer.detach()
    outer.detach()
    left = model(TOKENS).logits
    inner.detach()
    assert torch.equal(left, logits(model, other))


def test_an_adapter_follows_its_vectors_while_attached(model):
    adapter = HeadAdapter([(0, 1)], torch.zeros(1, 8))
    with adapter.attach(model):
        before = model(TOKENS).logits
        adapter.offsets.data += 1
        assert not torch.equal(model(TOKENS).logits, before)


def test_offloaded_weights_are_edited_alike(make_model):
    model = make_model()
    adapter = HeadAdapter(HEADS, torch.randn(3, 8), torch.randn(3, 8))
    near = logits(model, adapter)
    cpu_offload(model, execution_device=torch.device("cpu"))
    assert model.model.layers[0].self_attn.o_proj.weight.is_meta
    assert torch.equal(logits(model, adapter), near)
    with adapter.attach(model):
        model(TOKENS).logits.logsumexp(-1).sum().backward()
    assert all((vector.grad != 0).all() for vector in adapter.parameters())


def test_a_pass_in_inference_mode_does_not_stand_in_the_way_of_a_backward_pass(make_model):
    # On a device other than the one where the adapter was attached.
    model, adapter = make_model().to("meta"), HeadAdapter(HEADS, torch.ones(3, 8), torch.ones(3, 8)).to("meta")
    with adapter.attach(model):
        with torch.inference_mode():
            model(TOKENS.to("meta"))
        model(TOKENS.to("meta")).logits.sum().backward()
    assert adapter.offsets.grad.shape == adapter.scales.grad.shape == (3, 8)


@pytest.mark.parametrize("heads", [[(1, 0)], [(0, 0), (1, 0)]])
def test_a_projection_that_is_not_called_is_refused(make_model, heads):
    model = make_model()
    attention = model.model.layers[1].self_attn
    attention.o_proj.register_module("inner", torch.nn.Linear(32, 32))
    layout = replace(
        head_layout(model), projections=("model.layers.0.self_attn.o_proj", "model.layers.1.self_attn.o_proj.inner")
    )
    words = (
        r"layers\.1\.self_attn\.o_proj\.inner: not called in a pass through LlamaForCausalLM, .* no effect; expected"
    )
    with pytest.raises(LofitError, match=words), HeadAdapter(heads, torch.ones(len(heads), 8)).attach(model, layout):
        model(TOKENS)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
    with HeadAdapter([(0, 0)], torch.ones(1, 8)).attach(model, layout):
        model(TOKENS)


def test_after_one_pass_only_the_edits_are_left(model):
    with HeadAdapter([(0, 1), (1, 2)], torch.ones(2, 8)).attach(model):
        model(TOKENS)
        hooks = [len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules()]
    assert sorted(hooks)[-3:] == [0, 1, 1]


@pytest.mark.parametrize(
    ("heads", "width", "words"),
    [
        ([(2, 0)], 8, r"head \(2, 0\) is not in the model; expected layers 0 to 1, heads 0 to 3"),
        ([(0, 4)], 8, r"head \(0, 4\) is not in the model; expected layers 0 to 1, heads 0 to 3"),
        ([(0, 0)], 16, "vectors have 16 numbers; expected the model's 8"),
    ],
)
def test_an_adapter_of_another_model_is_refused_before_any_hook(model, heads, width, words):
    with pytest.raises(LofitError, match=words):
        HeadAdapter(heads, torch.zeros(1, width)).attach(model)
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("heads", "vectors", "words"),
    [
        ([(0, 1), (1, 1), (0, 1)], {"offsets": torch.zeros(3, 8)}, r"head \(0, 1\) is named twice"),
        ([(0, -1)], {"offsets": torch.zeros(1, 8)}, r"head \(0, -1\) is negative"),
        ([(0, 1)], {"offsets": torch.zeros(2, 8)}, r"offsets: got shape \(2, 8\); expected \(1, head_dim\)"),
        ([(0, 1)], {"scales": torch.zeros(8)}, r"scales: got shape \(8,\); expected \(1, head_dim\)"),
        ([(0, 1)], {"offsets": torch.full((1, 8), torch.nan)}, "offsets: got NaN or infinity"),
        ([(0, 1)], {"scales": torch.full((1, 8), -torch.inf)}, "scales: got NaN or infinity"),
        ([(0, 1)], {"scales": torch.zeros(1, 8), "offsets": torch.zeros(1, 4)}, r"\(1, 8\) and offsets \(1, 4\)"),
    ],
)
def test_vectors_that_cannot_be_right_are_refused(heads, vectors, words):
    with pytest.raises(LofitError, match=words):
        HeadAdapter(heads, **vectors)


def test_a_negative_head_is_named_also_among_others():
    with pytest.raises(LofitError, match=r"head \(2, -1\) is negative"):
        HeadAdapter([(0, 1), (2, -1)], torch.zeros(2, 8))


def test_fresh_vectors_are_small_and_decided_by_their_seed():
    vectors = fresh_vectors(200, 50, seed=1)
    assert vectors.shape == (200, 50)
    assert vectors.mean().abs() < 5e-5
    assert vectors.std().item() == pytest.approx(0.001, rel=0.03)
    assert torch.equal(vectors, fresh_vectors(200, 50, seed=1))
    assert not torch.equal(vectors, fresh_vectors(200, 50, seed=2))


# ---------------------------------------------------------------------------------------------------------- helpers


def logits(model, adapter):
    with adapter.attach(model), torch.no_grad():
        return model(TOKENS).logits
