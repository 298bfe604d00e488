"""All weights of a model, swapped: the model's own come back uncopied, and tied ones stay tied."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file
from torch.func import functional_call
from transformers import AutoModelForCausalLM

from lofit import LofitError, head_layout, load_adapter, merge
from lofit.adapters.provenance import Provenance
from lofit.adapters.weights import WeightsAdapter
from lofit.models.logprobs import score_groups
from lofit.models.tokens import encode

IDS = torch.arange(1, 31).view(2, 15)


def logits(model, ids=IDS):
    with torch.no_grad():
        return model(ids).logits


def moved(adapter):
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return adapter


@pytest.mark.parametrize("tied", [False, True])
def test_weights_take_the_place_of_the_models_and_its_own_come_back(make_model, tied):
    model = make_model(tie_word_embeddings=tied)
    base, objects = logits(model), dict(model.named_parameters(remove_duplicate=False))
    numbers = {name: weight.clone() for name, weight in objects.items()}
    adapter = WeightsAdapter.fresh(model)
    assert adapter.tensors().keys() == dict(model.named_parameters()).keys()
    assert ("lm_head.weight" in adapter.tensors()) != tied
    for _ in range(2):
        with adapter.attach(model) as attachment:
            assert torch.equal(logits(model), base)
            attached = {id(weight) for weight in model.parameters()}
            assert attached == {id(weight) for weight in adapter.parameters()}
            assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
        attachment.detach()
    with moved(adapter).attach(model):
        assert (logits(model) - base).abs().max() > 0.01
    after = dict(model.named_parameters(remove_duplicate=False))
    assert all(after[name] is weight for name, weight in objects.items()) and after.keys() == objects.keys()
    assert all(torch.equal(weight, numbers[name]) for name, weight in after.items())
    assert not any(weight.requires_grad for weight in model.parameters())


@pytest.mark.parametrize("tied", [False, True])
def test_gradients_are_those_of_the_weights(make_model, tied):
    model = make_model(tie_word_embeddings=tied)
    adapter = moved(WeightsAdapter.fresh(model))
    own = {name: weight.double().requires_grad_() for name, weight in adapter.tensors().items()}
    naive = functional_call(copy.deepcopy(model).double(), own, (), {"input_ids": IDS, "labels": IDS})
    naive.loss.backward()
    with adapter.attach(model):
        model(input_ids=IDS, labels=IDS).loss.backward()
    for name, weight in adapter.weights.named_parameters():
        assert torch.allclose(weight.grad.double(), own[name].grad, atol=1e-5, rtol=1e-3), name
        assert own[name].grad.any()
    assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize("tied", [False, True])
def test_the_folder_and_the_merged_checkpoint_hold_the_weights(make_model, tmp_path, tied):
    model = make_model(tie_word_embeddings=tied)
    adapter = moved(WeightsAdapter.fresh(model))
    adapter.provenance = Provenance(base_model="someone/llama", training={"task": "mquake"})
    adapter.save_pretrained(tmp_path / "one")
    assert json.loads((tmp_path / "one" / "config.json").read_text())["kind"] == "weights"
    assert load_file(tmp_path / "one" / "model.safetensors").keys() == dict(model.named_parameters()).keys()
    loaded = load_adapter(tmp_path / "one")
    loaded.save_pretrained(tmp_path / "two")
    for name in ("config.json", "model.safetensors", "README.md"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    with adapter.attach(model):
        expected = logits(model)
    with loaded.attach(model):
        assert torch.equal(logits(model), expected)
    assert not torch.equal(logits(model), expected)
    merged = merge(model, loaded)
    assert merged is model and torch.equal(logits(merged), expected)
    merged.save_pretrained(tmp_path / "merged")
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged")), expected)


def test_scores_with_shared_prefixes_are_those_of_whole_prompts(model, tokenizer):
    answers = [" No", " Yes", " No, pigs cannot"]
    group = [encode(tokenizer, "Q: Can pigs fly? A:", answer) for answer in answers]
    with moved(WeightsAdapter.fresh(model)).attach(model):
        for size in (1, 100):
            for row, score in zip(group, score_groups(model, [group], pad_id=7, batch_size=size)[0], strict=True):
                whole = logits(model, torch.tensor([row.ids]))[0].double().log_softmax(-1)
                alone = sum(whole[at - 1, row.ids[at]].item() for at in range(row.start, len(row.ids)))
                assert score == pytest.approx(alone, abs=1e-4)


def test_models_without_weights_of_their_own_in_float32_are_refused(make_model):
    with pytest.raises(LofitError, match=r"got torch.bfloat16; expected a float32 model"):
        WeightsAdapter.fresh(make_model().to(torch.bfloat16))
    offloaded = make_model()
    adapter = WeightsAdapter.fresh(offloaded)
    offloaded.lm_head.to("meta")
    with pytest.raises(LofitError, match=r"lm_head.weight: its weight is offloaded"):
        adapter.attach(offloaded)
    quantised = make_model()
    quantised.hf_quantizer = object()
    with pytest.raises(LofitError, match="got quantised weights"):
        adapter.attach(quantised)
    with pytest.raises(LofitError, match=r"^w: got torch.float16; expected torch.float32$"):
        WeightsAdapter({"w": torch.zeros(2, dtype=torch.float16)})


def test_a_model_that_is_not_the_adapters_is_refused_and_left_alone(make_model):
    adapter = WeightsAdapter.fresh(make_model())
    for changes, message in (
        ({"intermediate_size": 40}, "got shape .*; expected the model's"),
        ({"num_hidden_layers": 1}, "got a weight of the adapter alone"),
        ({"num_hidden_layers": 3}, "got a weight of the model alone"),
    ):
        model = make_model(**changes)
        weights = list(model.parameters())
        for refused in (adapter.attach, lambda model: merge(model, adapter)):
            with pytest.raises(LofitError, match=message):
                refused(model)
        assert all(map(lambda one, other: one is other, model.parameters(), weights))
    model = make_model()
    adapter.provenance = Provenance(num_heads=5)
    with pytest.raises(LofitError, match="made for 5 heads"):
        adapter.attach(model, head_layout(model))


def test_a_second_one_is_refused_until_the_first_is_gone(make_model):
    model = make_model()
    first, second = WeightsAdapter.fresh(model), WeightsAdapter.fresh(model)
    with first.attach(model), pytest.raises(LofitError, match="whose weights another adapter has replaced"):
        second.attach(model)
    second.attach(model).detach()
