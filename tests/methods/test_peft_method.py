"""Rows of PEFT: training, what the model and its reference see of it, and what is refused before anything is loaded."""

import subprocess
import sys

import pytest
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import PeftType

import lofit
from lofit import LofitError, Record, head_layout, load_adapter
from lofit.adapters.peft import PeftAdapter
from lofit.adapters.peft_config import REFUSED_TYPES
from lofit.fitting.context import Context
from lofit.methods.peft import Settings
from lofit.tasks.record import Objective
from lofit.training.checkpoint import Checkpoint
from lofit.training.loop import Progress
from lofit.training.reference import pair_logprobs
from lofit.training.settings import Runtime
from lofit.training.subject import Subject

PAIRS = [("Q: Can pigs fly? A:", " No"), ("Q: Where did the cat sit? A:", " on the mat"), ("Q: Who? A:", " Roy")]
RECORDS = [{"prompt": prompt, "completion": completion} for prompt, completion in PAIRS]
LORA = {"peft_type": "LORA", "r": 8, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
CONFIGS = {
    "lora": {**LORA, "lora_dropout": 0.1},
    "dora": {**LORA, "use_dora": True},
    "ia3": {"peft_type": "IA3"},
    "beft": {"peft_type": "BEFT", "target_modules": ["v_proj"]},
    "ln_tuning": {"peft_type": "LN_TUNING"},
}
SMALL = {
    "ADAMSS": {"r": 4, "num_subspaces": 2},
    "C3A": {"block_size": 16},
    "FOURIERFT": {"n_frequency": 20},
    "GRALORA": {"r": 4},
    "MISS": {"r": 4},
    "OFT": {"oft_block_size": 8},
    "ROAD": {"group_size": 16},
    "TRAINABLE_TOKENS": {"token_indices": [3, 4]},
    "VBLORA": {"vector_length": 16, "num_vectors": 32},
    "WAVEFT": {"n_frequency": 20},
}
USABLE = sorted(kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING if kind.value not in REFUSED_TYPES)
IDS = torch.arange(1, 31).view(2, 15)


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def fit(model, tokenizer, config, **settings):
    options = {"lr": 0.01, "epochs": 4, "batch_size": 2, **settings}
    return lofit.fit(model, tokenizer, RECORDS, method="peft", config=config, **options)


@pytest.mark.parametrize("config", CONFIGS)
def test_a_row_is_trained_saved_and_read_back(make_model, tokenizer, tmp_path, config):
    model = make_model()
    base, names = logits(model), list(model.state_dict())
    losses = []
    context = Context(progress=Progress(on_step=losses.append))
    adapter = fit(model, tokenizer, CONFIGS[config], batch_size=3, context=context)
    assert losses[-1]["loss"] < losses[0]["loss"]
    assert torch.equal(logits(model), base) and list(model.state_dict()) == names
    adapter.save_pretrained(tmp_path)
    with adapter.attach(model):
        expected = logits(model)
    with load_adapter(tmp_path).attach(model):
        assert torch.equal(logits(model), expected) and not torch.equal(expected, base)
    assert adapter.provenance.training["parameters"]["config"] == CONFIGS[config]


def test_numbers_of_each_row_are_those_of_the_formulas(model):
    layers, width, inner, rank = 2, 32, 48, 8
    expected = {
        "lora": layers * 2 * rank * (width + width),
        "dora": layers * 2 * (rank * (width + width) + width),
        "ia3": layers * (width + width + inner),
        "beft": layers * width,
        "ln_tuning": (2 * layers + 1) * width,
    }
    for config, count in expected.items():
        adapter = PeftAdapter.fresh(model, CONFIGS[config], seed=0)
        assert sum(parameter.numel() for parameter in adapter.parameters()) == count, config


@pytest.mark.parametrize("kind", USABLE)
def test_every_type_that_is_not_refused_leaves_the_model_as_it_was(make_model, tmp_path, kind):
    model = make_model()
    base = logits(model)
    numbers = {name: weight.clone() for name, weight in model.state_dict().items()}
    config = {"peft_type": kind, **SMALL.get(kind, {})}
    Settings.of({"config": config, "lr": 0.1})
    adapter = PeftAdapter.fresh(model, config, seed=3)
    with adapter.attach(model):
        # Where the first number of some types is zero, those behind it get gradients from the second step on.
        optimizer = torch.optim.SGD(adapter.parameters(), lr=0.1)
        for step in range(2):
            adapter.begin_step(step)
            optimizer.zero_grad()
            model(input_ids=IDS, labels=IDS).loss.backward()
            adapter.end_step(0.1)
            optimizer.step()
        expected = logits(model)
    assert (expected - base).abs().max() > 1e-4
    assert torch.equal(logits(model), base) and model.state_dict().keys() == numbers.keys()
    assert all(torch.equal(weight, numbers[name]) for name, weight in model.state_dict().items())
    adapter.save_pretrained(tmp_path)
    with load_adapter(tmp_path).attach(model):
        assert torch.equal(logits(model), expected)


def test_targets_are_pefts_own_for_the_model_where_none_are_named(model):
    assert PeftAdapter.fresh(model, {"peft_type": "IA3"}, seed=0).config["target_modules"] == [
        "down_proj",
        "k_proj",
        "v_proj",
    ]
    lora = PeftAdapter.fresh(model, {"peft_type": "LORA"}, seed=0)
    assert lora.config["target_modules"] == ["q_proj", "v_proj"]


@pytest.mark.parametrize("micro_batch_size", [None, 1])
def test_the_same_seed_gives_the_same_bytes_and_an_interrupted_run_too(
    model, tokenizer, tmp_path, monkeypatch, micro_batch_size
):
    monkeypatch.setattr(Checkpoint, "due", lambda self: self.folder is not None)
    runtime = Runtime(micro_batch_size=micro_batch_size)

    class KilledError(Exception):
        pass

    def kill(row):
        if row["step"] == 3:
            raise KilledError

    def run(name, on_step=lambda row: None, **options):
        progress = Progress(on_step=on_step)
        context = Context(runtime=runtime, progress=progress)
        torch.manual_seed(len(name))
        fit(model, tokenizer, CONFIGS["lora"], context=context, **options).save_pretrained(tmp_path / name)
        return (tmp_path / name / "adapter_model.safetensors").read_bytes()

    once = run("one")
    assert run("again") == once
    with pytest.raises(KilledError):
        run("killed", kill, checkpoint=tmp_path / "state")
    steps = []
    assert run("resumed", steps.append, checkpoint=tmp_path / "state") == once
    assert len(steps) == 8
    assert run("other", seed=7) != once


def test_the_validation_loss_knows_no_dropout(model, tokenizer):
    progress = Progress()
    context = Context(progress=progress)
    config = {**LORA, "lora_dropout": 0.9}
    adapter = fit(model, tokenizer, config, val=RECORDS, context=context)
    subject = Subject(
        layout=head_layout(model),
        model=model,
        tokenizer=tokenizer,
        records=[],
        val=[Record(str(i), *pair) for i, pair in enumerate(PAIRS)],
        seed=1,
    )
    settings = Settings.of({"config": config, "lr": 0.01, "batch_size": 2})
    assert [subject.loss_on_val(adapter, settings) for _ in range(3)] == [progress.val_loss] * 3


# Not the identity before training, so that a reference that met the adapter would be another.
RANDOM = {**LORA, "init_lora_weights": False}


def test_dpo_compares_with_the_bare_model(model, tokenizer):
    records = [Record("0", "Q: Can pigs fly? A:", " No", " Yes"), Record("1", "Q: Who? A:", " Roy", " Anna")]
    objective = Objective("dpo")
    bare = pair_logprobs(model, tokenizer, records, objective)
    subject = Subject(
        layout=head_layout(model),
        model=model,
        tokenizer=tokenizer,
        records=records,
        val=records,
        objective=objective,
        seed=1,
    )
    adapter = PeftAdapter.fresh(model, RANDOM, seed=0)
    assert subject._score_pairs(adapter) == (bare, bare)
    with adapter.attach(model):
        assert pair_logprobs(model, tokenizer, records, objective) != bare
    rows = subject.train(adapter, Settings.of({"config": RANDOM, "lr": 1e-3, "epochs": 1}))
    # At the reference itself DPO's loss is log 2.
    assert abs(rows[0]["loss"] - torch.tensor(2.0).log().item()) > 1e-3


def test_a_grid_of_rates_is_searched(model, tokenizer):
    adapter = lofit.fit(
        model,
        tokenizer,
        RECORDS,
        method="peft",
        config=CONFIGS["ia3"],
        val=RECORDS,
        epochs=2,
        tune={"lr": [1e-5, 3e-2]},
    )
    assert adapter.provenance.training["parameters"]["lr"] in (1e-5, 3e-2)


# -------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "config.peft_type: got None; expected .*LORA"),
        ({"peft_type": "lora"}, "config.peft_type: got 'lora'; expected .*LORA"),
        ({"peft_type": ["LORA"]}, r"config.peft_type: got \['LORA'\]; expected .*LORA"),
        ({"peft_type": "LORA", "rank": 8}, "config.rank: unknown key of LORA; expected .*lora_alpha"),
        (
            {"peft_type": "LORA", "target_modules": "q_proj", "layers_to_transform": [0]},
            r"config: got .*; expected what peft accepts \(.*layers_to_transform",
        ),
        ({"peft_type": "ADALORA", "total_step": 9}, r"config.peft_type: got 'ADALORA' \(it has to be called after"),
        *(
            ({"peft_type": kind}, rf"config.peft_type: got '{kind}' \(.+\); expected ADAMSS, .*")
            for kind in sorted(REFUSED_TYPES)
        ),
        *(
            ({"peft_type": "LORA", "init_lora_weights": init}, rf"config.init_lora_weights: got '{init}' \(it rewr")
            for init in ("pissa", "pissa_niter_4", "olora", "loftq", "corda", "eva", "lora_ga")
        ),
        ({"peft_type": "LORA", "bias": "all"}, r"config.bias: got 'all' \(it would train biases.*\); expected 'none'"),
        ({"peft_type": "LORA", "modules_to_save": ["lm_head"]}, r"config.modules_to_save: got .*; expected None"),
        ({"peft_type": "LORA", "trainable_token_indices": [1]}, r"config.trainable_token_indices: got \[1\]"),
        ({"peft_type": "LORA", "layer_replication": [[0, 2]]}, r"config.layer_replication: got"),
        ({"peft_type": "LORA", "target_parameters": ["w"]}, r"config.target_parameters: got"),
        ({"peft_type": "ADAMSS", "use_asa": True}, r"config.use_asa: got True \(it has to be called after each step"),
        ({"peft_type": "LORA", "task_type": "SEQ_CLS"}, r"config.task_type: got 'SEQ_CLS'; expected no such key"),
        ({"peft_type": "LORA", "inference_mode": True}, r"config.inference_mode: got True; expected no such key"),
    ],
)
def test_what_cannot_be_trained_is_refused_with_the_settings_in_one_line(config, message):
    with pytest.raises(LofitError, match=f"^{message}") as caught:
        Settings.of({"config": config, "lr": 0.1})
    assert "\n" not in str(caught.value)


def test_every_type_of_peft_is_refused_or_tried():
    assert {kind.value for kind in PeftType} >= REFUSED_TYPES.keys()


def test_modules_that_are_not_there_are_one_line(model, tokenizer):
    with pytest.raises(
        LofitError, match=r"^config: got .*no_proj.*; expected one that fits LlamaForCausalLM"
    ) as caught:
        fit(model, tokenizer, {"peft_type": "LORA", "target_modules": ["no_proj"]})
    assert "\n" not in str(caught.value)


def test_settings_of_other_rows_wait_neither_for_torch_nor_for_peft():
    look = "import sys, lofit.methods.{0} as page; print(sorted({{'torch', 'peft'}} & set(sys.modules)))"
    for name in ("peft", "full"):
        done = subprocess.run(
            [sys.executable, "-c", look.format(name)], capture_output=True, text=True, check=True, cwd=None
        )
        assert done.stdout.strip() == "[]"
