"""Adapters of PEFT: the model is left as it was, the numbers are PEFT's own, and its folder is one that PEFT reads."""

import json
from itertools import chain

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch.func import functional_call

from lofit import HeadAdapter, LofitError, head_layout, load_adapter
from lofit.adapters.peft import PeftAdapter
from lofit.adapters.peft_config import peft_config, plain
from lofit.adapters.provenance import Provenance
from lofit.models.logprobs import score_groups
from lofit.models.runtime import activation_checkpointing
from lofit.models.tokens import encode

LORA = {"peft_type": "LORA", "r": 8, "lora_alpha": 8, "target_modules": ["v_proj", "q_proj"]}
CONFIGS = {
    "lora": LORA,
    "dora": {**LORA, "use_dora": True},
    "ia3": {"peft_type": "IA3"},
    "beft": {"peft_type": "BEFT", "target_modules": ["v_proj"]},
    "ln_tuning": {"peft_type": "LN_TUNING"},
    # Projections that all layers share and that are saved, but not trained.
    "vera": {"peft_type": "VERA", "r": 4, "target_modules": ["q_proj", "v_proj"]},
}
DROPOUT = {**LORA, "lora_dropout": 0.5}
IDS = torch.arange(1, 31).view(2, 15)


def logits(model, ids=IDS):
    with torch.no_grad():
        return model(ids).logits


def moved(adapter, size=0.1):
    """The adapter with other numbers in all that is trained."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator)
    return adapter


def fresh(model, config="lora", seed=3):
    return PeftAdapter.fresh(model, CONFIGS.get(config, DROPOUT), seed=seed)


def state(model):
    """All that an adapter could leave behind: attributes and hooks by module, tensors, what gets gradients."""
    seen = {}
    for path, module in model.named_modules():
        for key, value in vars(module).items():
            seen[path, key] = list(value.items()) if isinstance(value, dict) else value
    weights = {name: (weight.requires_grad, weight._version) for name, weight in model.named_parameters()}
    config = dict(vars(model.config))
    return list(seen), {name: repr(value)[:300] for name, value in seen.items()}, weights, config


def held(model):
    """The modules and tensors of a model themselves."""
    return [*model.modules(), *model.state_dict(keep_vars=True).values()]


@pytest.mark.parametrize("config", CONFIGS)
def test_an_untrained_adapter_changes_nothing_and_a_detached_one_leaves_nothing(make_model, config):
    model = make_model()
    base, before, objects = logits(model), state(model), held(model)
    numbers = {name: weight.clone() for name, weight in model.state_dict().items()}
    adapter = fresh(model, config)
    for _ in range(3):
        with adapter.attach(model) as attachment:
            assert torch.equal(logits(model), base)
            assert [*model.modules()] != objects[: len([*model.modules()])]
        attachment.detach()
    with moved(adapter).attach(model):
        assert (logits(model) - base).abs().max() > 0.01
    assert state(model) == before
    assert len(held(model)) == len(objects) and all(map(lambda one, other: one is other, held(model), objects))
    assert model.state_dict().keys() == numbers.keys()
    assert all(torch.equal(weight, numbers[name]) for name, weight in model.state_dict().items())
    assert torch.equal(logits(model), base)


@pytest.mark.parametrize("config", CONFIGS)
def test_only_what_the_adapter_trains_gets_gradients(make_model, config):
    model = make_model()
    adapter = moved(fresh(model, config))
    assert not any(weight.requires_grad for weight in model.parameters())
    with adapter.attach(model):
        reached = {id(weight) for weight in model.parameters() if weight.requires_grad}
        assert reached == {id(weight) for weight in adapter.parameters()}
        model(input_ids=IDS, labels=IDS).loss.backward()
    assert all(weight.grad.any() for weight in adapter.parameters())
    assert all(weight.grad is None for weight in model.parameters())


def test_lora_is_a_product_of_two_matrices_added_to_the_weight(model):
    adapter = moved(fresh(model))
    own = {name: weight.detach().double().requires_grad_() for name, weight in adapter.named_parameters()}
    changed = {}
    for layer in range(2):
        for projection in ("q_proj", "v_proj"):
            path = f"model.layers.{layer}.self_attn.{projection}"
            down, up = (own[f"base_model.model.{path}.lora_{side}.weight"] for side in "AB")
            changed[f"{path}.weight"] = model.get_submodule(path).weight.double() + 8 / 8 * up @ down
    everything = {name: weight.double() for name, weight in model.named_parameters()} | changed
    naive = functional_call(model, everything, (), {"input_ids": IDS, "labels": IDS})
    naive.loss.backward()
    with adapter.attach(model):
        output = model(input_ids=IDS, labels=IDS)
        output.loss.backward()
    assert torch.allclose(output.logits.double(), naive.logits, atol=1e-4)
    for name, weight in adapter.named_parameters():
        assert torch.allclose(weight.grad.double(), own[name].grad, atol=1e-5, rtol=1e-3), name
        assert own[name].grad.abs().max() > 1e-3


def test_ia3_scales_and_beft_adds(model):
    for config, projection, change in (("ia3", "k_proj", torch.mul), ("beft", "v_proj", torch.add)):
        values = {"peft_type": config.upper(), "target_modules": [projection]}
        values |= {"feedforward_modules": []} if config == "ia3" else {}
        adapter = moved(PeftAdapter.fresh(model, values, seed=0))
        vectors = [parameter.detach().flatten() for parameter in adapter.parameters()]
        handles = [
            model.get_submodule(f"model.layers.{layer}.self_attn.{projection}").register_forward_hook(
                lambda _, __, output, vector=vectors[layer], change=change: change(output, vector)
            )
            for layer in range(2)
        ]
        expected = logits(model)
        for handle in handles:
            handle.remove()
        with adapter.attach(model):
            assert torch.allclose(logits(model), expected, atol=1e-5)
        assert (logits(model) - expected).abs().max() > 0.01


def test_initial_numbers_come_from_the_seed_alone(model):
    torch.manual_seed(11)
    drawn = torch.get_rng_state()
    first, again, other = fresh(model, seed=3), fresh(model, seed=3), fresh(model, seed=4)
    assert torch.equal(torch.get_rng_state(), drawn)
    torch.manual_seed(12)
    later = fresh(model, seed=3)
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    assert torch.equal(first.state_dict()[name], again.state_dict()[name])
    assert torch.equal(first.state_dict()[name], later.state_dict()[name])
    assert not torch.equal(first.state_dict()[name], other.state_dict()[name])


@pytest.mark.parametrize("config", CONFIGS)
def test_the_folder_is_read_by_peft_and_by_us_and_stays_the_same_to_the_byte(make_model, tmp_path, config):
    model = make_model()
    adapter = moved(fresh(model, config))
    adapter.provenance = Provenance(base_model="someone/llama", base_revision="c" * 40)
    adapter.save_pretrained(tmp_path / "one")
    names = {"README.md", "adapter_config.json", "adapter_model.safetensors", "config.json"}
    assert {file.name for file in (tmp_path / "one").iterdir()} == names
    loaded = load_adapter(tmp_path / "one")
    loaded.save_pretrained(tmp_path / "two")
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert loaded.provenance == adapter.provenance and loaded.frozen == adapter.frozen
    trained = [[name for name, _ in one.named_parameters()] for one in (loaded, adapter)]
    assert trained[0] == trained[1]
    with adapter.attach(model):
        expected = logits(model)
    with loaded.attach(model):
        assert torch.equal(logits(model), expected)
    read = PeftModel.from_pretrained(make_model(), tmp_path / "one")
    assert torch.equal(logits(read), expected)
    told = json.loads((tmp_path / "one" / "adapter_config.json").read_text())
    assert (told["base_model_name_or_path"], told["revision"]) == ("someone/llama", "c" * 40)


def test_sets_of_a_config_are_sorted(model):
    adapter = fresh(model)
    assert adapter.config["target_modules"] == ["q_proj", "v_proj"]
    assert plain(peft_config(adapter.config)) == adapter.config
    assert "PeftModel" in adapter.usage() and "LORA on q_proj, v_proj: 2,048 trained numbers" in adapter.summary()


# ------------------------------------------------------------------------------------------------- dropout


def test_dropout_is_at_work_in_steps_alone_and_draws_from_seed_and_step(model):
    adapter = moved(fresh(model, "dropout"))

    def step(number):
        adapter.begin_step(number)
        output = logits(model)
        adapter.end_step(0.1)
        return output

    with adapter.attach(model):
        calm = logits(model)
        torch.manual_seed(1)
        drawn = torch.get_rng_state()
        first, second = step(0), step(1)
        assert torch.equal(torch.get_rng_state(), drawn)
        torch.manual_seed(2)
        assert torch.equal(step(0), first) and not torch.equal(second, first) and not torch.equal(first, calm)
        assert torch.equal(logits(model), calm)
        adapter.begin_step(5)
    # A step that was never ended, as where training is interrupted.
    assert not any(module.training for module in adapter._added)
    with adapter.attach(model):
        assert torch.equal(logits(model), calm)
    other = PeftAdapter(adapter.config, adapter.state_dict(), seed=4)
    with other.attach(model):
        other.begin_step(0)
        assert not torch.equal(logits(model), first)


def test_the_model_itself_stays_in_evaluation_mode(make_model):
    model = make_model(attention_dropout=0.5)
    own = list(model.modules())
    adapter = fresh(model, "dropout")
    with adapter.attach(model):
        adapter.begin_step(0)
        assert not any(module.training for module in own)
        assert any(module.training for module in model.modules())


def test_recomputed_activations_meet_the_same_dropout(make_model):
    model = make_model()
    with activation_checkpointing(model):
        pass
    before = state(model)
    adapter = moved(fresh(model, "dropout"))

    def gradients():
        adapter.zero_grad()
        with adapter.attach(model):
            adapter.begin_step(0)
            model(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
            adapter.end_step(0.1)
        return [weight.grad.clone() for weight in adapter.parameters()]

    plainly = gradients()
    with activation_checkpointing(model):
        again = gradients()
    assert all(map(torch.equal, plainly, again)) and state(model) == before


# -------------------------------------------------------------------------------------------- other company


@pytest.mark.parametrize("config", CONFIGS)
def test_in_bfloat16_the_adapter_stays_in_float32(make_model, config):
    model = make_model().to(torch.bfloat16)
    base = logits(model)
    adapter = fresh(model, config)
    assert {weight.dtype for weight in adapter.parameters()} == {torch.float32}
    with adapter.attach(model):
        # DoRA divides by a norm, and rounds.
        assert (logits(model) - base).abs().max() <= (0.1 if config == "dora" else 0)
        assert logits(model).dtype == torch.bfloat16
        optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-4, weight_decay=0.0)
        before = [weight.detach().clone() for weight in adapter.parameters()]
        for _ in range(2):
            optimizer.zero_grad()
            model(input_ids=IDS, labels=IDS).loss.backward()
            optimizer.step()
        assert not any(map(torch.equal, before, adapter.parameters()))


def test_it_stands_beside_an_adapter_of_heads_and_they_leave_in_any_order(model):
    base, adapter = logits(model), moved(fresh(model))
    heads = HeadAdapter([(0, 1)], torch.ones(1, 8))
    with heads.attach(model):
        with adapter.attach(model):
            both = logits(model)
        alone = logits(model)
    first, second = adapter.attach(model), heads.attach(model)
    assert torch.equal(logits(model), both)
    first.detach()
    assert torch.equal(logits(model), alone)
    second.detach()
    assert torch.equal(logits(model), base) and not torch.equal(alone, both)


@pytest.mark.parametrize("config", ["lora", "ia3", "ln_tuning"])
def test_scores_with_shared_prefixes_are_those_of_whole_prompts_whatever_the_batch(model, tokenizer, config):
    prompts = {"Q: Can pigs fly? A:": [" No", " Yes", " No, pigs"], "Q: Can cats fly? A:": [" No", " on the mat"]}
    groups = [[encode(tokenizer, prompt, answer) for answer in answers] for prompt, answers in prompts.items()]
    with moved(fresh(model, config)).attach(model):
        shared = [score_groups(model, groups, pad_id=7, batch_size=size) for size in (1, 2, 100)]
        for row, score in zip(chain(*groups), chain(*shared[0]), strict=True):
            whole = logits(model, torch.tensor([row.ids]))[0].double().log_softmax(-1)
            alone = sum(whole[at - 1, row.ids[at]].item() for at in range(row.start, len(row.ids)))
            assert score == pytest.approx(alone, abs=1e-4)
    for other in shared[1:]:
        assert [*chain(*other)] == pytest.approx([*chain(*shared[0])], abs=1e-4)


# -------------------------------------------------------------------------------------------- what is refused


def test_a_model_that_is_not_the_adapters_is_refused_and_left_alone(make_model):
    adapter = fresh(make_model())
    for changes, message in (
        ({"hidden_size": 16}, "got shape .*; expected the model's"),
        ({"num_hidden_layers": 1}, "got a tensor of the adapter alone"),
        ({"num_hidden_layers": 3}, "got a tensor of the model alone"),
    ):
        model = make_model(**changes)
        before = state(model)
        with pytest.raises(LofitError, match=message):
            adapter.attach(model)
        assert state(model) == before
    adapter.provenance = Provenance(num_layers=3)
    model = make_model()
    with pytest.raises(LofitError, match="made for 3 layers"):
        adapter.attach(model, head_layout(model))


def test_a_second_adapter_of_peft_is_refused(make_model):
    model = make_model()
    adapter = fresh(model)
    with adapter.attach(model), pytest.raises(LofitError, match="got one with an adapter of PEFT in it"):
        fresh(model, "ia3").attach(model)
    adapter.attach(model).detach()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": {"peft_type": "LORA", "init_lora_weights": "pissa"}}, "init_lora_weights: got 'pissa'"),
        ({"config": {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 3}}, "peft_type: got 'PROMPT_TUNING'"),
        ({"config": {}}, "peft_type: got None"),
        ({"frozen": ["no tensor"]}, "frozen: got no tensor"),
        ({"seed": -1}, "seed: got -1"),
    ],
)
def test_a_foreign_folder_is_refused_in_words(model, tmp_path, change, message):
    fresh(model).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(LofitError, match=message):
        load_adapter(tmp_path)


def test_missing_tensors_are_refused(model, tmp_path):
    fresh(model).save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    lost = min(tensors)
    save_file({name: tensor for name, tensor in tensors.items() if name != lost}, file)
    with pytest.raises(LofitError, match=f"^{lost}: got a tensor of the model alone"):
        load_adapter(tmp_path).attach(model)
    file.unlink()
    with pytest.raises(LofitError, match=r"adapter_model.safetensors: no such file"):
        load_adapter(tmp_path)
