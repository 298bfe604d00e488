"""StreamAdapter: offsets of the residual stream, against a decoder that is run layer by layer."""

import json

import pytest
import torch
from accelerate import cpu_offload
from torch import nn

from lofit import HeadAdapter, LofitError, head_layout, load_adapter
from lofit.adapters.stream import StreamAdapter
from lofit.models.runtime import activation_checkpointing
from lofit.models.tokens import Encoded
from lofit.training.examples import Example
from lofit.training.loop import train
from lofit.training.settings import Runtime, TrainingSettings
from tests.families import FAMILIES, VOCABULARY, build

TOKENS = torch.tensor([[5, 17, 40, 8, 9, 3], [7, 2, 11, 30, 4, 6]])


def logits(model, adapter, tokens=TOKENS):
    with adapter.attach(model):
        return model(tokens).logits


@pytest.mark.parametrize("layers", [[0], [1], [2, 0]])
def test_values_and_gradients_are_those_of_a_loop_over_layers(make_model, layers):
    model = make_model(num_hidden_layers=3).double()
    offsets = torch.randn(len(layers), 32, dtype=torch.float32, generator=torch.Generator().manual_seed(1))
    adapter = StreamAdapter(layers, offsets)
    ours = logits(model, adapter)

    naive = offsets.double().requires_grad_()
    decoder, h = model.model, model.model.embed_tokens(TOKENS)
    rotary = decoder.rotary_emb(h, torch.arange(TOKENS.shape[1])[None])
    causal = torch.full((6, 6), -torch.inf, dtype=torch.float64).triu(1)[None, None]
    for at, layer in enumerate(decoder.layers):
        out = layer(h, attention_mask=causal, position_embeddings=rotary)
        h = out if isinstance(out, torch.Tensor) else out[0]
        if at in layers:
            h = h + naive[layers.index(at)]
    theirs = model.lm_head(decoder.norm(h))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(ours, model(TOKENS).logits, atol=1e-2)

    (gradient,) = torch.autograd.grad(theirs.logsumexp(-1).sum(), naive)
    ours.logsumexp(-1).sum().backward()
    torch.testing.assert_close(adapter.offsets.grad.double(), gradient, rtol=1e-4, atol=1e-5)
    assert gradient.abs().min() > 0


@pytest.mark.parametrize("name", FAMILIES)
def test_in_every_family_the_output_of_the_layer_and_of_no_other_module_is_edited(name):
    model = build(name, torch.float32)
    layout = head_layout(model)
    seen = {}

    def watch(path):
        def hook(_, __, output):
            seen.setdefault(path, []).append(output if isinstance(output, torch.Tensor) else output[0])

        return hook

    block = model.get_submodule(layout.blocks[1])
    inside = {path: module for path, module in block.named_children() if any(True for _ in module.parameters())}
    handles = [module.register_forward_hook(watch(path)) for path, module in inside.items()]
    offset = torch.randn(1, 32, generator=torch.Generator().manual_seed(1))
    adapter = StreamAdapter([1], offset)
    with torch.no_grad():
        plain = model(TOKENS).logits
        with adapter.attach(model):
            handles.append(block.register_forward_hook(watch("block")))
            edited = model(TOKENS).logits
        handles.append(block.register_forward_hook(watch("plain block")))
        after = model(TOKENS).logits
    for handle in handles:
        handle.remove()
    assert torch.equal(seen["block"][0], seen["plain block"][0] + offset[0])
    assert len(seen) > 2
    for path in inside.keys() & seen.keys():
        first, second, *_ = seen[path]
        assert torch.equal(first, second), path
    assert torch.equal(after, plain) and not torch.equal(edited, plain)


def test_offsets_stay_float32_and_a_bfloat16_sum_is_rounded_once(make_model):
    model = make_model().bfloat16()
    adapter = StreamAdapter([1], torch.full((1, 32), 0.003))
    outputs = []
    handle = model.model.norm.register_forward_pre_hook(lambda _, args: outputs.append(args[0]))
    plain = model(TOKENS)
    with adapter.attach(model):
        model(TOKENS).logits.float().logsumexp(-1).sum().backward()
    handle.remove()
    assert plain.logits.dtype == outputs[1].dtype == torch.bfloat16 and adapter.offsets.dtype == torch.float32
    assert torch.equal(outputs[1], (outputs[0].float() + adapter.offsets[0]).bfloat16())
    assert (adapter.offsets.grad != 0).all()


def test_a_layer_may_return_its_states_in_a_tuple(make_model):
    model = make_model()
    offset = torch.randn(1, 32)
    wanted = logits(model, StreamAdapter([0], offset))

    class Tupled(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.self_attn = inner.forward, inner.self_attn

        def forward(self, *args, **options):
            return self.inner(*args, **options), "more"

    class First(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.self_attn = inner.forward, inner.self_attn

        def forward(self, h, **options):
            assert h[1] == "more"
            return self.inner(h[0], **options)

    model.model.layers[0], model.model.layers[1] = Tupled(model.model.layers[0]), First(model.model.layers[1])
    assert torch.equal(logits(model, StreamAdapter([0], offset)), wanted)


def test_detaching_leaves_the_model_as_it_was(make_model):
    model = make_model()
    plain, weights = model(TOKENS).logits, {name: value.clone() for name, value in model.state_dict().items()}
    attachment = StreamAdapter([0, 1], torch.randn(2, 32)).attach(model)
    assert not torch.equal(model(TOKENS).logits, plain)
    attachment.detach()
    attachment.detach()
    assert torch.equal(model(TOKENS).logits, plain)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_it_acts_beside_an_adapter_of_heads(model):
    heads, stream = HeadAdapter([(1, 2)], torch.ones(1, 8)), StreamAdapter([0], torch.randn(1, 32))
    with heads.attach(model):
        both = logits(model, stream)
    with stream.attach(model):
        assert torch.equal(logits(model, heads), both)
    assert not torch.equal(both, logits(model, stream))


def test_generation_is_edited_token_by_token(model):
    adapter = StreamAdapter([0], 2 * torch.randn(1, 32, generator=torch.Generator().manual_seed(3)))
    with adapter.attach(model):
        cached = model.generate(TOKENS, max_new_tokens=6, min_new_tokens=6, do_sample=False)
        ids = TOKENS
        for _ in range(6):
            scores = model(ids, use_cache=False).logits[:, -1]
            scores[:, 0] = -torch.inf  # the end, which min_new_tokens rules out
            ids = torch.cat([ids, scores.argmax(-1)[:, None]], dim=1)
    assert torch.equal(cached, ids)
    assert not torch.equal(cached, model.generate(TOKENS, max_new_tokens=6, min_new_tokens=6, do_sample=False))


def test_offloaded_weights_are_edited_alike(make_model):
    model = make_model()
    adapter = StreamAdapter([0, 1], torch.randn(2, 32))
    near = logits(model, adapter)
    cpu_offload(model, execution_device=torch.device("cpu"))
    assert torch.equal(logits(model, adapter), near)


def test_gradients_reach_what_the_offsets_were_computed_from(model):
    gate = torch.tensor(0.5, requires_grad=True)
    adapter = StreamAdapter([0], gate * torch.ones(1, 32))
    logits(model, adapter).logsumexp(-1).sum().backward()
    assert gate.grad.abs() > 0 and list(adapter.parameters()) == []


# Training ------------------------------------------------------------------------------------------------------------


def trained(model, layers, **runtime):
    generator = torch.Generator().manual_seed(2)
    rows = [
        Encoded(tuple(torch.randint(3, VOCABULARY, (length,), generator=generator).tolist()), start)
        for length, start in [(12, 9), (9, 8), (7, 3), (5, 4)]
    ]
    adapter = StreamAdapter(layers, 0.001 * torch.randn(len(layers), 32, generator=generator))
    settings = TrainingSettings(lr=0.01, epochs=3, batch_size=2)
    history = train(
        model, adapter, [Example(row) for row in rows], settings, seed=1, pad_id=0, runtime=Runtime(**runtime)
    )
    return adapter.offsets.detach(), [row["loss"] for row in history]


@pytest.mark.parametrize("layers", [[2], [3, 2], [3]])
def test_training_from_a_kept_prefix_ends_as_that_through_all_layers(make_model, layers, capsys):
    model = make_model(num_hidden_layers=4)
    runs = []
    for layer in model.model.layers:
        layer.input_layernorm.register_forward_pre_hook(lambda *_: runs.append(1))
    kept, losses = trained(model, layers)
    with_prefix = len(runs)
    assert f"keeping the output of the lower {min(layers)} of 4 layers" in capsys.readouterr().out
    plain, expected = trained(model, layers, keep_prefix=False)
    assert with_prefix < len(runs) - with_prefix
    torch.testing.assert_close(kept, plain, rtol=1e-4, atol=1e-6)
    assert losses == pytest.approx(expected, rel=1e-5)
    assert (kept.abs().max(dim=1).values > 0.01).all() and losses[0] != losses[2]


def test_training_that_computes_activations_anew_ends_as_any_other(make_model):
    model = make_model(num_hidden_layers=4)
    plain, _ = trained(model, [1, 2], keep_prefix=False)
    with activation_checkpointing(model):
        anew, _ = trained(model, [1, 2], keep_prefix=False)
    torch.testing.assert_close(anew, plain, rtol=1e-4, atol=1e-6)


# Its folder ----------------------------------------------------------------------------------------------------------


def test_a_folder_gives_back_the_adapter_by_layer(tmp_path):
    offsets = torch.randn(2, 32)
    StreamAdapter([3, 1], offsets).save_pretrained(tmp_path / "one")
    read = load_adapter(tmp_path / "one")
    assert type(read) is StreamAdapter and read.layers == [1, 3] and torch.equal(read.offsets, offsets.flip(0))
    read.save_pretrained(tmp_path / "two")
    for name in ("config.json", "model.safetensors", "README.md"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    card = (tmp_path / "one" / "README.md").read_text()
    assert "64 numbers in all, added to the output of 2 of the model's layers" in card
    assert f"| 3 | {offsets[0].norm().item():.4g} |" in card


@pytest.mark.parametrize(
    "changes, fault",
    [
        ({"hidden_size": 16}, r"offsets: got shape \(2, 32\) of torch.float32; expected \(2, 16\)"),
        ({"layers": [1]}, r"offsets: got shape \(2, 32\)"),
        ({"layers": [1, 1]}, "layers: got 1 twice; expected each layer once"),
        ({"layers": [-1, 0]}, r"layers.0: got -1; expected greater than or equal to 0"),
        ({"num_layers": 2}, "layers: got 3; expected 0 to 1, as num_layers says"),
        ({"kind": "heads"}, "config.json: "),
    ],
)
def test_a_folder_that_does_not_fit_itself_is_refused(tmp_path, changes, fault):
    StreamAdapter([3, 1], torch.randn(2, 32)).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(LofitError, match=fault):
        load_adapter(tmp_path)


@pytest.mark.parametrize(
    "layers, offsets, fault",
    [
        ([0, 0], torch.zeros(2, 4), "layers: got 0 twice"),
        ([-1], torch.zeros(1, 4), "layers: got -1; expected layers counted from 0"),
        ([0], torch.zeros(4), r"offsets: got shape \(4,\); expected \(1, hidden_size\)"),
        ([0, 1], torch.zeros(1, 4), r"offsets: got shape \(1, 4\); expected \(2, hidden_size\)"),
        ([0], torch.full((1, 4), torch.nan), "offsets: got NaN or infinity"),
    ],
)
def test_what_is_no_adapter_is_refused(layers, offsets, fault):
    with pytest.raises(LofitError, match=fault):
        StreamAdapter(layers, offsets)


@pytest.mark.parametrize(
    "adapter, fault",
    [
        (StreamAdapter([2], torch.ones(1, 32)), "adapter layer 2 is not in the model; expected layers 0 to 1"),
        (StreamAdapter([0], torch.ones(1, 16)), "adapter offsets have 16 numbers; expected the model's 32"),
        (StreamAdapter([0], torch.ones(1, 1)), "adapter offsets have 1 numbers; expected the model's 32"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(model, adapter, fault):
    with pytest.raises(LofitError, match=fault):
        adapter.attach(model)
    assert not any(module._forward_hooks for module in model.modules())


def test_zeros_are_idle_and_anything_else_is_served_as_a_bias():
    assert StreamAdapter([0], torch.zeros(1, 4)).is_idle and StreamAdapter([0], torch.zeros(1, 4)).served_as is None
    assert StreamAdapter([0], torch.ones(1, 4)).served_as == "down_proj bias"
