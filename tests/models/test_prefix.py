"""Step 2 from the hidden states below its lowest head, against passes through all layers."""

import pytest
import torch
from torch import nn

from lofit import HeadAdapter, head_layout
from lofit.models.prefix import PrefixBudget, keep_prefix
from lofit.models.runtime import activation_checkpointing
from lofit.models.tokens import Encoded
from lofit.training.checkpoint import Checkpoint
from lofit.training.examples import Example, rows_of
from lofit.training.initial import fresh_vectors
from lofit.training.loop import Progress, train
from lofit.training.loss import task_loss
from lofit.training.settings import Runtime, TrainingSettings
from tests.families import FAMILIES, VOCABULARY, build

HEADS = [(3, 0), (2, 3), (2, 1)]
LOWEST = 2
LENGTHS = [(12, 9), (9, 8), (7, 3), (5, 4), (10, 6), (6, 5)]
"""Tokens of a row, and where its completion begins."""


@pytest.fixture(scope="module")
def deep(make_model):
    return make_model(num_hidden_layers=4)


@pytest.fixture(params=["cross_entropy", "dpo"])
def examples(request):
    rows = make_rows(VOCABULARY)
    if request.param == "cross_entropy":
        return [Example(row) for row in rows]
    # Two pairs share a completion.
    return [Example(row, rows[i // 2], (-20.0, -15.0)) for i, row in enumerate(rows)]


@pytest.mark.parametrize("name", FAMILIES)
def test_losses_and_gradients_are_those_of_all_layers(name):
    family, model = FAMILIES[name], build(name, torch.float32)
    examples = [Example(row) for row in make_rows(VOCABULARY)]
    adapter = HeadAdapter([(1, 2), (1, 0)], 0.3 * torch.randn(2, family.head_dim))
    kept = keep(model, rows_of(examples), adapter.lowest_layer)
    assert kept is not None
    results = []
    with adapter.attach(model):
        for start in (kept, None):
            loss = task_loss(model, examples, pad_id=0, beta=0.5, kept=start)
            results.append((loss, *torch.autograd.grad(loss, adapter.offsets)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert results[0][1].abs().max() > 1e-3


@pytest.mark.parametrize("micro_batch_size", [None, 1])
@pytest.mark.parametrize("place", ["memory", "disk"])
def test_training_ends_with_the_vectors_of_an_uncached_run(deep, examples, tmp_path, place, micro_batch_size):
    runtime = Runtime() if place == "memory" else Runtime(prefix_memory_gb=0.0, scratch=tmp_path)
    runs = [
        run(deep, examples, runtime.model_copy(update={"micro_batch_size": micro_batch_size, "keep_prefix": keeps}))
        for keeps in (True, False)
    ]
    (kept, history), (plain, expected) = runs
    torch.testing.assert_close(kept, plain, rtol=1e-4, atol=1e-6)
    assert [row["loss"] for row in history] == pytest.approx([row["loss"] for row in expected], rel=1e-5)
    assert not list(tmp_path.iterdir())


def test_memory_and_disk_give_the_same_bytes(deep, examples, tmp_path):
    runtimes = (Runtime(), Runtime(prefix_memory_gb=0.0, scratch=tmp_path))
    in_memory, on_disk = (run(deep, examples, runtime)[0] for runtime in runtimes)
    assert torch.equal(in_memory, on_disk)


def test_layers_that_compute_their_activations_anew_can_be_left_out_too(make_model, examples):
    model = make_model(num_hidden_layers=4)
    plain, _ = run(model, examples, Runtime(keep_prefix=False))
    with activation_checkpointing(model):
        kept, _ = run(model, examples)
    torch.testing.assert_close(kept, plain, rtol=1e-4, atol=1e-6)


def test_a_resumed_run_ends_as_an_unbroken_one(deep, examples, tmp_path):
    def kill(row):
        if row["step"] == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(deep, examples, checkpoint=Checkpoint(tmp_path, seconds=0.0), on_step=kill)
    resumed, _ = run(deep, examples, checkpoint=Checkpoint(tmp_path, seconds=0.0))
    assert torch.equal(resumed, run(deep, examples)[0])


def test_the_layers_below_run_once_for_each_row_and_are_whole_afterwards(deep, examples):
    calls, rows = dict.fromkeys(range(4), 0), dict.fromkeys(range(4), 0)
    before = [vars(layer).get("forward") for layer in deep.model.layers]

    def count(layer):
        def hook(module, args):
            calls[layer] += 1
            rows[layer] += len(args[0])

        return hook

    # What replaces a layer's forward is called as the layer is, so the layer's own first module is watched.
    handles = [layer.input_layernorm.register_forward_pre_hook(count(at)) for at, layer in enumerate(deep.model.layers)]
    run(deep, examples, epochs=5)
    for handle in handles:
        handle.remove()
    distinct = len(set(rows_of(examples)))
    longest = min(4, distinct)  # of the first batch, which is also run the plain way to compare
    assert rows[0] == rows[1] == distinct + longest
    assert rows[2] == rows[3] == 5 * len(rows_of(examples)) + 2 * longest
    assert [vars(layer).get("forward") for layer in deep.model.layers] == before == [None] * 4


def test_states_are_kept_in_the_dtype_of_the_model(deep, make_model):
    rows = make_rows(VOCABULARY)
    kept = keep(make_model(num_hidden_layers=4).to(torch.bfloat16), rows, LOWEST)
    assert kept.states.dtype == torch.bfloat16
    assert kept.states.shape == (sum(length for length, _ in LENGTHS), 32)


def test_the_estimate_is_printed_before(deep, capsys):
    keep(deep, make_rows(VOCABULARY), LOWEST)
    assert capsys.readouterr().out == (
        "run: keeping the output of the lower 2 of 4 layers: 49 tokens, 0.00 GB in memory; a step should take about "
        "33% less time\n"
    )


@pytest.mark.parametrize(
    ("lowest", "budget", "reason"),
    [
        (0, PrefixBudget(), "only 0 of 4 layers lie below the lowest tuned head"),
        (LOWEST, PrefixBudget(memory_gb=0.0), "0.00 GB are too much for 0 GB of memory and 0.0 GB of disk"),
    ],
)
def test_where_it_cannot_help_it_says_so_and_all_layers_run(deep, capsys, lowest, budget, reason):
    assert keep(deep, make_rows(VOCABULARY), lowest, budget=budget) is None
    assert capsys.readouterr().out == f"run: every step runs all layers: {reason}\n"


def test_a_disk_that_is_too_full_is_not_filled(deep, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 1000})())
    assert keep(deep, make_rows(VOCABULARY), LOWEST, budget=PrefixBudget(0.0, tmp_path)) is None
    assert "0 GB of memory and 0.0 GB of disk" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["a module", "a rate of attention"])
def test_dropout_below_is_refused(make_model, capsys, kind):
    model = make_model(num_hidden_layers=4)
    attention = model.model.layers[0].self_attn
    if kind == "a module":
        attention.o_proj = nn.Sequential(attention.o_proj, nn.Dropout(0.1))
    else:
        attention.attention_dropout = 0.1
    model.eval()
    assert keep(model, make_rows(VOCABULARY), LOWEST) is not None
    model.train()
    assert keep(model, make_rows(VOCABULARY), LOWEST) is None
    assert "dropout is at work in the layers below" in capsys.readouterr().out


class Secretive(nn.Module):
    """A layer whose first module tells the last one something past the hidden states."""

    def __init__(self, layer, said, *, speaks):
        super().__init__()
        self.layer, self.said, self.speaks = layer, said, speaks

    def forward(self, hidden, *args, **kwargs):
        if self.speaks:
            self.said.append(hidden)
            return self.layer(hidden, *args, **kwargs)
        return self.layer(hidden, *args, **kwargs) + self.said.pop()


def test_a_model_whose_layers_pass_on_more_than_hidden_states_is_run_whole(make_model, capsys):
    model, said = make_model(num_hidden_layers=4), []
    model.model.layers[0] = Secretive(model.model.layers[0], said, speaks=True)
    model.model.layers[3] = Secretive(model.model.layers[3], said, speaks=False)
    layout = head_layout(model)
    rows = make_rows(VOCABULARY)
    assert keep_prefix(model, layout, LOWEST, rows, pad_id=0, batch_size=4, name="run") is None
    assert "every step runs all layers: LlamaForCausalLM cannot start from there" in capsys.readouterr().out
    assert all(vars(layer).get("forward") is None for layer in model.model.layers)


def test_a_model_that_adds_its_embeddings_again_further_up_is_run_whole_or_right(make_model, capsys):
    """Wrong numbers, where there is no error, are found by comparison."""
    model = make_model(num_hidden_layers=4)
    seen = {}

    class Remembers(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def forward(self, hidden, *args, **kwargs):
            seen["first"] = hidden
            return self.layer(hidden, *args, **kwargs)

    class Adds(Remembers):
        def forward(self, hidden, *args, **kwargs):
            return self.layer(hidden + seen.pop("first", 0), *args, **kwargs)

    model.model.layers[0], model.model.layers[3] = Remembers(model.model.layers[0]), Adds(model.model.layers[3])
    assert keep_prefix(model, head_layout(model), LOWEST, make_rows(VOCABULARY), pad_id=0, batch_size=4) is None
    assert "logits differ by" in capsys.readouterr().out


def test_a_single_epoch_keeps_nothing(deep, examples, capsys):
    run(deep, examples, epochs=1)
    assert "keeping" not in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------------------- helpers


def make_rows(vocabulary):
    generator = torch.Generator().manual_seed(1)
    return [
        Encoded(tuple(torch.randint(3, vocabulary, (length,), generator=generator).tolist()), start)
        for length, start in LENGTHS
    ]


def keep(model, rows, lowest, *, budget=None):
    return keep_prefix(model, head_layout(model), lowest, rows, pad_id=0, batch_size=4, budget=budget, name="run")


def run(model, examples, runtime=Runtime(), *, epochs=4, checkpoint=None, on_step=lambda row: None):  # noqa: B008
    adapter = HeadAdapter(HEADS, fresh_vectors(3, 8, seed=5))
    history = train(
        model,
        adapter,
        examples,
        TrainingSettings(lr=0.05, epochs=epochs, batch_size=4),
        seed=3,
        pad_id=0,
        runtime=runtime,
        checkpoint=checkpoint,
        progress=Progress(on_step=on_step),
        title="run",
    )
    return adapter.offsets.detach(), history
