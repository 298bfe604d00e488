"""Full fine-tuning against AdamW by hand."""

import copy

import pytest
import torch

import lofit
from lofit import LofitError
from lofit.methods import full
from lofit.models.tokens import collate, encode
from lofit.training.loop import shuffled

PAIRS = [("Q: Can pigs fly? A:", " No"), ("Q: Where did the cat sit? A:", " on the mat"), ("Q: Who? A:", " Roy")]
RECORDS = [{"prompt": prompt, "completion": completion} for prompt, completion in PAIRS]


def test_it_is_adamw_on_every_weight(model, tokenizer):
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    adapter = lofit.fit(model, tokenizer, RECORDS, method="full", lr=1e-3, epochs=2, batch_size=2, seed=5)
    naive = copy.deepcopy(model).requires_grad_(True)
    weights = list(naive.parameters())
    optimizer = torch.optim.AdamW(weights, lr=1e-3, weight_decay=0.0)
    rows = [encode(tokenizer, prompt, answer, end=tokenizer.eos_token_id) for prompt, answer in PAIRS]
    step = 0
    for epoch in range(2):
        order = shuffled(3, seed=5, epoch=epoch)
        for first in (0, 2):
            batch = collate([rows[i] for i in order[first : first + 2]], pad_id=7, device="cpu")
            labels = batch.pop("labels")
            logits = naive(**batch).logits
            optimizer.zero_grad()
            chosen = labels[:, 1:] != -100
            loss = torch.nn.functional.cross_entropy(logits[:, :-1][chosen], labels[:, 1:][chosen])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.param_groups[0]["lr"] = 1e-3 * (4 - step) / 4
            optimizer.step()
            step += 1
    for name, weight in adapter.tensors().items():
        target = dict(naive.named_parameters())[name]
        assert (weight - before[name]).abs().max() > 1e-4, name
        # Adam turns the sign of a tiny gradient into a whole step: rounding may flip a few.
        assert ((weight - target).abs() > 2e-4).float().mean() < 0.01, name
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())


def test_the_same_seed_gives_the_same_bytes(model, tokenizer, tmp_path):
    for name in ("one", "two"):
        lofit.fit(model, tokenizer, RECORDS, method="full", epochs=1).save_pretrained(tmp_path / name)
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two


def test_large_models_are_refused_unless_they_are_asked_for(model, tokenizer):
    count = sum(weight.numel() for weight in model.parameters())
    with pytest.raises(LofitError, match=rf"^full: got {count:,} weights; expected at most 1,000, or a larger max"):
        lofit.fit(model, tokenizer, RECORDS, method="full", max_parameters=1000)
    assert full.Settings().max_parameters == 50_000_000
    adapter = lofit.fit(model, tokenizer, RECORDS, method="full", max_parameters=count, epochs=1)
    assert sum(weight.numel() for weight in adapter.parameters()) == count


def test_a_model_in_16_bits_is_refused(make_model, tokenizer):
    with pytest.raises(LofitError, match="expected a float32 model"):
        lofit.fit(make_model().to(torch.bfloat16), tokenizer, RECORDS, method="full")
