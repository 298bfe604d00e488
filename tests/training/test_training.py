"""The training loop: against one written by hand, interrupted, and on behaviour that one head can bring about."""

import math
import random

import pytest
import torch
from accelerate import Accelerator

from lofit import HeadAdapter, head_layout
from lofit.errors import LofitError
from lofit.models.tokens import Encoded, encode
from lofit.models.vocabulary import vocabulary_of
from lofit.rankings import top_heads
from lofit.tasks.record import Objective, Record
from lofit.training.checkpoint import Checkpoint
from lofit.training.examples import Example, prepare
from lofit.training.initial import INIT_STD, fresh_vectors
from lofit.training.loop import Progress, shuffled, train
from lofit.training.loss import mean_loss
from lofit.training.objectives import l1_penalty
from lofit.training.reference import pair_logprobs
from lofit.training.settings import TrainingSettings

HEADS = [(0, 1), (1, 0), (1, 3)]
SETTINGS = TrainingSettings(lr=0.05, epochs=2, batch_size=4)
SEED = 3
CROSS_ENTROPY = Objective("cross_entropy")
DPO = Objective("dpo")
RECORDS = [
    Record(str(i), f"Q: {question}? A:", f" {answer}", f" {wrong}")
    for i, (question, answer, wrong) in enumerate(
        [
            ("Can pigs fly", "No, pigs cannot fly", "Yes"),
            ("Where", "on the mat", "in the cat"),
            ("Who", "Roy", "Anna and the dog"),
            ("What", "her brother", "mat"),
            ("Can cats", "yes", "no, no"),
            ("Imagine", "that", "what is not"),
            ("Where did Anna sit", "the mat", "pigs"),
            ("Is", "she", "it is"),
            ("Fly", "No", "Yes, on pigs"),
            ("Dog", "cat", "dog"),
        ]
    )
]


@pytest.fixture(scope="module", params=["cross_entropy", "dpo"])
def examples(request, model, tokenizer):
    return get_examples(model, tokenizer, CROSS_ENTROPY if request.param == "cross_entropy" else DPO)


@pytest.fixture(params=["scales", "offsets"])
def kind(request):
    return request.param


def test_the_base_is_left_as_it_was(model, examples, kind):
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    adapter = make(kind)
    start = getattr(adapter, kind).detach().clone()
    run(model, adapter, examples)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert (getattr(adapter, kind) != start).all()


def test_a_run_is_decided_by_its_seed(model, examples, kind, tmp_path):
    files = []
    for number, seed in enumerate((3, 3, 4)):
        adapter = make(kind)
        run(model, adapter, examples, seed=seed)
        adapter.save_pretrained(tmp_path / str(number))
        files.append((tmp_path / str(number) / "model.safetensors").read_bytes())
    assert files[0] == files[1] != files[2]


def test_the_loop_is_that_of_adamw_by_hand(model, examples, kind):
    adapter = make(kind, std=0.3)
    vectors = getattr(adapter, kind).detach().double()
    history = run(model, adapter, examples, l1=0.01 if kind == "scales" else 0.0)
    expected = train_by_hand(model, kind, vectors, examples, l1=0.01 if kind == "scales" else 0.0)
    assert [(row["step"], row["epoch"]) for row in history] == [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 2)]
    for key in ("loss", "penalty", "lr"):
        assert [row[key] for row in history] == pytest.approx([row[key] for row in expected], rel=1e-4, abs=1e-7)
    torch.testing.assert_close(getattr(adapter, kind).detach().double(), vectors, rtol=1e-3, atol=1e-4)
    assert history[-1]["lr"] == pytest.approx(0.05 / 6)


def test_large_gradients_are_clipped(model, tokenizer):
    # AdamW forgives a common factor of all gradients, but not one that differs from step to step.
    examples = get_examples(model, tokenizer, DPO)
    adapter = make("offsets")
    clipped, free = (make("offsets").offsets.detach().double() for _ in range(2))
    run(model, adapter, examples, beta=20.0)
    train_by_hand(model, "offsets", clipped, examples, beta=20.0)
    train_by_hand(model, "offsets", free, examples, beta=20.0, clip=math.inf)
    assert (adapter.offsets - clipped).norm() < 0.01 * (free - clipped).norm()


def test_the_penalty_is_the_l1_norm_of_the_scales_and_shrinks_them(model, tokenizer):
    examples = get_examples(model, tokenizer, CROSS_ENTROPY)
    free, bound = make("scales", std=0.3), make("scales", std=0.3)
    total = bound.scales.abs().sum().item()
    history = run(model, bound, examples, l1=0.5)
    assert history[0]["penalty"] == pytest.approx(0.5 * total, rel=1e-6)
    assert history[0]["loss"] == pytest.approx(run(model, free, examples)[0]["loss"])
    assert bound.scales.abs().sum() < 0.8 * free.scales.abs().sum()


def test_offsets_are_not_penalised(model, tokenizer):
    history = run(model, make("offsets"), get_examples(model, tokenizer, CROSS_ENTROPY), l1=0.5)
    assert {row["penalty"] for row in history} == {0}


@pytest.mark.parametrize("trial", range(4))
def test_an_interrupted_run_ends_as_an_unbroken_one(model, examples, kind, tmp_path, trial):
    draw = random.Random(f"{trial}{kind}{examples[0].rejected is None}")
    waits, killed_at = draw.randint(1, 4), draw.randint(1, 6)
    unbroken, resumed = make(kind), make(kind)
    history = run(model, unbroken, examples)

    def kill(row):
        if row["step"] == killed_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(model, resumed, examples, checkpoint=EverySoOften(tmp_path, waits), on_step=kill)
    assert not any(module._forward_pre_hooks for module in model.modules())
    resumed, seen = make(kind), []
    again = run(model, resumed, examples, checkpoint=EverySoOften(tmp_path, waits), on_step=seen.append)
    assert again == history == seen
    assert torch.equal(getattr(resumed, kind), getattr(unbroken, kind))


def test_a_resumed_run_starts_at_its_checkpoint_and_not_anew(model, tokenizer, tmp_path):
    examples = get_examples(model, tokenizer, CROSS_ENTROPY)
    run(model, make("offsets"), examples, checkpoint=Checkpoint(tmp_path))
    done = make("offsets")
    calls = []
    handle = model.register_forward_hook(lambda *args: calls.append(1))
    history = run(model, done, examples, checkpoint=Checkpoint(tmp_path))
    handle.remove()
    assert len(history) == 6 and calls == []
    assert not torch.equal(done.offsets, make("offsets").offsets)


def test_every_example_is_met_once_an_epoch_in_an_order_of_its_own():
    orders = [shuffled(10, seed=seed, epoch=epoch) for seed in (1, 2) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert shuffled(10, seed=1, epoch=1) == orders[1]


def test_the_first_loss_of_dpo_is_log_2(model, tokenizer):
    examples = get_examples(model, tokenizer, DPO)
    zero = HeadAdapter(HEADS, torch.zeros(3, 8))
    assert run(model, zero, examples)[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert run(model, make("offsets"), examples)[0]["loss"] == pytest.approx(math.log(2), abs=0.01)


def test_dpo_learns_to_tell_the_pairs_apart(model, tokenizer):
    examples = get_examples(model, tokenizer, DPO)
    history = run(model, make("offsets"), examples, epochs=20, lr=0.2)
    assert history[-1]["loss"] < 0.5 * math.log(2)


def test_cross_entropy_needs_no_second_half_of_a_pair(model, tokenizer):
    examples = get_examples(model, tokenizer, CROSS_ENTROPY)
    assert all(example.rejected is None and example.reference is None for example in examples)
    assert examples[0].chosen.ids[-1] == tokenizer.eos_token_id


def test_each_record_gets_its_own_reference(model, tokenizer):
    references = [(-float(number), -0.5 * number) for number in range(len(RECORDS))]
    examples = prepare(tokenizer, RECORDS, DPO, vocabulary_of(model, tokenizer), max_length=100, references=references)
    for example, record, reference in zip(examples, RECORDS, references, strict=True):
        assert example.chosen == encode(tokenizer, record.prompt, record.completion, end=tokenizer.eos_token_id)
        assert example.rejected == encode(tokenizer, record.prompt, record.rejected, end=tokenizer.eos_token_id)
        assert example.reference == reference


@pytest.mark.parametrize("objective", [CROSS_ENTROPY, DPO], ids=["cross_entropy", "dpo"])
def test_a_record_that_is_too_long_is_refused_before_training(model, tokenizer, objective):
    with pytest.raises(LofitError, match="expected max_length, 5"):
        prepare(tokenizer, RECORDS, objective, vocabulary_of(model, tokenizer), max_length=5)


def test_the_mean_loss_is_that_of_the_edited_model_without_penalty(model, examples):
    adapter = make("scales", std=0.5)
    loss = mean_loss(model, adapter, examples, pad_id=0, beta=0.5, batch_size=4)
    with adapter.attach(model), torch.no_grad():
        expected = loss_by_hand(model, examples).item()
    assert loss == pytest.approx(expected, rel=1e-4)
    again = mean_loss(model, adapter, examples, pad_id=0, beta=0.5, batch_size=3)
    assert again == pytest.approx(expected, rel=1e-4)
    assert loss != pytest.approx(
        mean_loss(model, HeadAdapter([]), examples, pad_id=0, beta=0.5, batch_size=4), rel=1e-3
    )


@pytest.mark.parametrize("seed", [0, 2])
def test_behaviour_that_one_head_can_bring_about_is_found_at_that_head(make_model, seed):
    model = make_model(seed, vocab_size=64)
    planted, layout = (1, 2), head_layout(model)
    examples = written_by(model, planted, seed)
    scales = HeadAdapter(layout.all_heads(), scales=fresh_vectors(8, 8, seed=0))
    run(model, scales, examples, lr=0.05, epochs=7, batch_size=8, l1=0.005)
    norms = scales.scales.detach().norm(dim=-1).view(2, 4)
    assert top_heads(norms.numpy(), 1) == [planted]

    losses = {}
    for head in layout.all_heads():
        adapter = HeadAdapter([head], fresh_vectors(1, 8, seed=0))
        history = run(model, adapter, examples, lr=0.2, epochs=7, batch_size=8)
        losses[head] = mean_loss(model, adapter, examples, pad_id=0, beta=0.5, batch_size=48)
    others = [loss for head, loss in losses.items() if head != planted]
    assert losses[planted] < min(others)
    assert losses[planted] < 0.8 * history[0]["loss"]


# ---------------------------------------------------------------------------------------------------------- helpers


def get_examples(model, tokenizer, objective):
    references = pair_logprobs(model, tokenizer, RECORDS, objective) if objective is DPO else None
    return prepare(
        tokenizer, RECORDS, objective, vocabulary_of(model, tokenizer), max_length=100, references=references
    )


def make(kind, *, std=0.001):
    return HeadAdapter(HEADS, **{kind: fresh_vectors(3, 8, seed=5) * std / INIT_STD})


def run(model, adapter, examples, *, seed=SEED, l1=0.0, checkpoint=None, on_step=lambda row: None, **changes):
    return train(
        model,
        adapter,
        examples,
        TrainingSettings(**{**SETTINGS.model_dump(), **changes}),
        seed=seed,
        pad_id=0,
        penalty=lambda: l1_penalty(adapter.scales, weight=l1),
        accelerator=Accelerator(),
        checkpoint=checkpoint,
        progress=Progress(on_step=on_step),
    )


class EverySoOften(Checkpoint):
    """A checkpoint that is due whenever it has been asked `often` times: as if each step took the same time."""

    def __init__(self, folder, often):
        super().__init__(folder)
        self.often, self.asked = often, 0

    def due(self):
        self.asked += 1
        return self.asked % self.often == 0


def logprob_by_hand(model, row):
    logprobs = model(torch.tensor([row.ids])).logits[0].double().log_softmax(-1)
    return sum(logprobs[at - 1, row.ids[at]] for at in range(row.start, len(row.ids)))


def loss_by_hand(model, batch, beta=0.5):
    """One row after the other, without padding."""
    chosen = [logprob_by_hand(model, example.chosen) for example in batch]
    if batch[0].rejected is None:
        return -sum(chosen) / sum(len(example.chosen.ids) - example.chosen.start for example in batch)
    total = 0
    for example, score in zip(batch, chosen, strict=True):
        margin = score - logprob_by_hand(model, example.rejected) - (example.reference[0] - example.reference[1])
        total = total - (1 / (1 + (-beta * margin).exp())).log()
    return total / len(batch)


def train_by_hand(model, kind, vectors, examples, *, l1=0.0, beta=0.5, clip=1.0):
    """AdamW (betas 0.9 and 0.999, no decay), clipping and a linear fall to zero; changes `vectors` in place."""
    first, second, history = torch.zeros_like(vectors), torch.zeros_like(vectors), []
    total = SETTINGS.epochs * 3
    for step in range(total):
        epoch, at = divmod(step, 3)
        order = shuffled(10, seed=SEED, epoch=epoch)[4 * at : 4 * at + 4]
        leaf = vectors.float().requires_grad_()
        with HeadAdapter(HEADS, **{kind: leaf}).attach(model):
            loss = loss_by_hand(model, [examples[i] for i in order], beta)
        penalty = l1 * leaf.double().abs().sum()
        (gradient,) = torch.autograd.grad(loss + penalty, leaf)
        norm = gradient.double().norm()
        gradient = gradient.double() * min(1.0, clip / (norm.item() + 1e-6))
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        lr = SETTINGS.lr * (1 - step / total)
        mean, square = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.999 ** (step + 1))
        vectors -= lr * mean / (square.sqrt() + 1e-8)
        history.append({"loss": loss.item(), "penalty": float(penalty.detach()), "lr": lr})
    return history


def written_by(model, head, seed):
    """48 completions of 3 tokens that the model writes where `head` has a large offset."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 64, (48, 6), generator=generator)
    with HeadAdapter([head], 4 * torch.randn(1, 8, generator=generator)).attach(model), torch.no_grad():
        for _ in range(3):
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
    return [Example(Encoded(tuple(row), 6)) for row in ids.tolist()]
