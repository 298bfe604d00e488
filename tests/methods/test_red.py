"""RED at heads: the base model at first, both vectors trained, in bfloat16 too."""

import pytest
import torch

import lofit
from lofit import HeadAdapter, head_layout

RECORDS = [
    {"prompt": "Q: Can pigs fly? A:", "completion": " No, pigs cannot fly"},
    {"prompt": "Q: Where did the cat sit? A:", "completion": " on the mat"},
    {"prompt": "Q: Who? A:", "completion": " Roy"},
]


def test_zeros_are_the_base_model_to_the_bit(model, monkeypatch):
    """What `fit` starts from, attached, changes no logit."""
    from lofit.methods import red

    class Untrained:
        layout = head_layout(model)

        def train(self, adapter, settings):
            assert adapter.scales.requires_grad and adapter.offsets.requires_grad

    adapter = red.fit(Untrained(), red.Settings(), [])
    assert adapter.heads == head_layout(model).all_heads()
    ids = torch.arange(1, 21).view(2, 10)
    before = model(ids).logits
    with adapter.attach(model):
        assert torch.equal(model(ids).logits, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scales_and_offsets_both_move_and_say_something(make_model, tokenizer, dtype):
    model = make_model().to(dtype)
    adapter = lofit.fit(model, tokenizer, RECORDS, method="red", lr=0.001, epochs=2, batch_size=2)
    assert isinstance(adapter, HeadAdapter) and adapter.heads == head_layout(model).all_heads()
    for vectors in (adapter.scales, adapter.offsets):
        assert vectors.dtype == torch.float32 and vectors.any(1).all()
        # Steps that bfloat16 would round away next to 1.
        assert vectors.abs().max() < 0.008


def test_training_goes_by_the_gradient_of_both_vectors(model, tokenizer):
    """The first AdamW step is lr times the sign of the gradient, taken here by a naive edit of the model."""
    record = RECORDS[0]
    adapter = lofit.fit(model, tokenizer, [record], method="red", lr=0.001, epochs=1)
    layout = head_layout(model)
    scales = torch.zeros(8, 8, requires_grad=True)
    offsets = torch.zeros(8, 8, requires_grad=True)

    def edit(layer):
        def hook(_, args):
            z = args[0].unflatten(-1, (4, 8))
            some = slice(4 * layer, 4 * layer + 4)
            return (((1 + scales[some]) * z + offsets[some]).flatten(-2),)

        return hook

    handles = [
        model.get_submodule(path).register_forward_pre_hook(edit(layer))
        for layer, path in enumerate(layout.projections)
    ]
    prompt = tokenizer(record["prompt"])["input_ids"]
    ids = tokenizer(record["prompt"] + record["completion"])["input_ids"] + [tokenizer.eos_token_id]
    logprobs = model(torch.tensor([ids])).logits.log_softmax(-1)[0]
    (-sum(logprobs[at - 1, ids[at]] for at in range(len(prompt), len(ids)))).backward()
    for handle in handles:
        handle.remove()
    for trained, naive in ((adapter.scales, scales), (adapter.offsets, offsets)):
        clear = naive.grad.abs() > 1e-4
        assert clear.sum() > 30
        torch.testing.assert_close(trained.detach()[clear], -0.001 * naive.grad.sign()[clear], rtol=0.05, atol=0)
