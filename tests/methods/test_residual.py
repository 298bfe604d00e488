"""The trained vector in the residual stream, against a naive step of it."""

import pytest
import torch

from lofit import LofitError, fit
from lofit.adapters.stream import StreamAdapter
from lofit.methods import residual
from lofit.training.initial import fresh_vectors

RECORDS = [
    {"prompt": "Q: Can pigs fly? A:", "completion": " No, pigs cannot fly"},
    {"prompt": "Q: Where did the cat sit? A:", "completion": " on the mat"},
]


def test_one_step_is_adams_on_the_gradient_of_a_naive_loss(model, tokenizer):
    adapter = fit(model, tokenizer, RECORDS[:1], method="residual", layers=[0], lr=0.01, epochs=1, batch_size=1, seed=3)
    start = fresh_vectors(1, 32, seed=3).requires_grad_()
    prompt, whole = (
        tokenizer(text)["input_ids"] for text in (RECORDS[0]["prompt"], RECORDS[0]["prompt"] + RECORDS[0]["completion"])
    )
    # A completion ends with the end token, which is learnt, too.
    whole = [*whole, tokenizer.eos_token_id]
    handle = model.model.layers[0].register_forward_hook(
        lambda _, __, h: h + start[0] if isinstance(h, torch.Tensor) else (h[0] + start[0], *h[1:])
    )
    logprobs = model(torch.tensor([whole])).logits[0, :-1].log_softmax(-1)
    handle.remove()
    own = [place for place in range(len(whole)) if place >= len(prompt)]
    loss = -sum(logprobs[place - 1, whole[place]] for place in own) / len(own)
    (gradient,) = torch.autograd.grad(loss, start)
    # The first step of Adam is the sign of the gradient, whatever clipping has made of its length.
    assert type(adapter) is StreamAdapter and adapter.layers == [0]
    torch.testing.assert_close(adapter.offsets, start - 0.01 * gradient.sign(), rtol=0, atol=1e-4)


def test_the_middle_layer_is_the_default_and_the_model_stays_as_it_was(make_model, tokenizer):
    model = make_model(num_hidden_layers=5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    adapter = fit(model, tokenizer, RECORDS, method="residual", epochs=1)
    assert adapter.layers == [2] and adapter.offsets.shape == (1, 32)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    assert adapter.provenance.training["method"] == "residual"


def test_the_same_seed_gives_the_same_bytes_and_layers_are_trained_together(make_model, tokenizer):
    model = make_model(num_hidden_layers=3)
    runs = [fit(model, tokenizer, RECORDS, method="residual", layers=[2, 0], lr=0.05, epochs=2) for _ in range(2)]
    assert runs[0].layers == [0, 2] and torch.equal(runs[0].offsets, runs[1].offsets)
    assert runs[0].offsets.std(dim=1).min() > 0.01
    other = fit(model, tokenizer, RECORDS, method="residual", layers=[2, 0], lr=0.05, epochs=2, seed=1)
    assert not torch.equal(other.offsets, runs[0].offsets)


@pytest.mark.parametrize(
    "layers, fault",
    [
        ([0, 2], "layers: got 2; expected 0 to 1, the layers of the model"),
        ([1, 1], "layers: got 1 twice; expected each layer once"),
        ([], r"layers: got \[\]; expected at least one entry"),
        ([-1], r"layers.0: got -1; expected greater than or equal to 0"),
        (1, "layers: got 1; expected a list"),
    ],
)
def test_layers_that_the_model_lacks_are_refused_in_words(model, tokenizer, layers, fault):
    with pytest.raises(LofitError, match=fault):
        fit(model, tokenizer, RECORDS, method="residual", layers=layers)


def test_it_takes_no_heads(model, tokenizer):
    assert residual.RANKING is None
    with pytest.raises(LofitError, match="k: got 3; expected none for residual"):
        fit(model, tokenizer, RECORDS, method="residual", k=3)
