"""ITI: its offsets against the formula written out, and what they do to scores."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lofit import HeadAdapter, LofitError, Record, fit, head_layout
from lofit.adapters.answer_heads import AnswerHeadAdapter
from lofit.fitting.context import Context
from lofit.methods import iti
from lofit.scoring.predict import predict
from lofit.tasks.record import Metric
from lofit.training import activations
from lofit.training.activations import Activations, collect
from lofit.training.subject import Subject

HEADS = [(0, 3), (1, 0), (1, 2)]
PAIRS = [
    ("Can pigs fly", " No", " Yes"),
    ("Who", " Roy", " Anna"),
    ("Where", " on the mat", " in the cat"),
    ("x", " a", " b"),
]
RECORDS = [
    Record(str(n), f"Q: {question}? A:", right, wrong, correct=(right, " the dog"), incorrect=(wrong, " my brother"))
    for n, (question, right, wrong) in enumerate(PAIRS)
]
METRIC = Metric("multiple_choice")


@pytest.fixture(scope="module")
def given(model, tokenizer):
    return collect(model, tokenizer, head_layout(model), RECORDS[:2], RECORDS[2:], seed=1)


@pytest.fixture
def subject(model, tokenizer, given):
    return Subject(
        head_layout(model),
        seed=1,
        model=model,
        tokenizer=tokenizer,
        records=RECORDS[:2],
        val=RECORDS[2:],
        activations=given,
    )


def naive(given, head, *, alpha, used, bank):
    """One head's offset with loops over answers, in plain float64."""
    layer, place = head
    z = [[float(number) for number in row[layer, place]] for row in given.heads]
    true = [row for row, label, use in zip(z, given.labels, used, strict=True) if use and label]
    false = [row for row, label, use in zip(z, given.labels, used, strict=True) if use and not label]
    shift = [
        sum(a) / len(true) - sum(b) / len(false)
        for a, b in zip(zip(*true, strict=True), zip(*false, strict=True), strict=True)
    ]
    length = sum(number**2 for number in shift) ** 0.5
    unit = [number / length for number in shift]
    along = [sum(float(a) * b for a, b in zip(row[layer, place], unit, strict=True)) for row in bank]
    mean = sum(along) / len(along)
    sigma = (sum((number - mean) ** 2 for number in along) / len(along)) ** 0.5
    return [alpha * sigma * number for number in unit]


@pytest.mark.parametrize("fit_on", ["train", "train_and_val"])
@pytest.mark.parametrize("sigma_bank", ["question_end", "answer_end"])
def test_an_offset_is_alpha_times_sigma_times_the_mean_shift(subject, given, fit_on, sigma_bank):
    adapter = iti.fit(subject, iti.Settings(alpha=3.5, fit_on=fit_on, sigma_bank=sigma_bank), HEADS)
    assert type(adapter) is HeadAdapter and adapter.heads == HEADS and adapter.scales is None
    used = [True] * len(given.labels) if fit_on == "train_and_val" else ~given.in_val
    bank = given.question_ends if sigma_bank == "question_end" else given.heads
    for head, offset in zip(HEADS, adapter.offsets.tolist(), strict=True):
        assert offset == pytest.approx(naive(given, head, alpha=3.5, used=used, bank=bank), rel=1e-5, abs=1e-7)


def test_a_direction_is_that_of_the_heads_probe(subject, given):
    linear = pytest.importorskip("sklearn.linear_model")
    theta = iti.directions(given, iti.Settings(direction="probe"), HEADS, seed=1)
    train = ~given.in_val
    for (layer, head), unit in zip(HEADS, theta, strict=True):
        z = given.heads[train, layer, head].astype(np.float64)
        weights = linear.LogisticRegression(tol=1e-12, max_iter=10_000).fit(z, given.labels[train]).coef_[0]
        np.testing.assert_allclose(unit, weights / np.linalg.norm(weights), atol=1e-4)


@pytest.mark.parametrize("direction", ["mass_mean", "probe"])
def test_a_planted_direction_is_found(direction):
    generator = np.random.default_rng(0)
    planted = generator.standard_normal(8)
    planted /= np.linalg.norm(planted)
    labels = np.arange(4000) % 2 == 0
    heads = generator.standard_normal((4000, 2, 4, 8))
    heads[labels, 1, 3] += 2 * planted
    ends = np.zeros((500, 2, 4, 8))
    ends[:, 1, 3] = generator.standard_normal((500, 1)) * 0.25 * planted
    given = activations_of(heads, labels, ends)
    (unit,) = iti.directions(given, iti.Settings(direction=direction), [(1, 3)], seed=1)
    assert unit @ planted > 0.99
    assert iti.along(given.question_ends[:, 1, 3], unit).std() == pytest.approx(0.25, rel=0.1)


def test_a_random_direction_is_the_heads_own_and_the_seeds(given):
    settings = iti.Settings(direction="random")
    both = iti.directions(given, settings, HEADS, seed=1)
    np.testing.assert_allclose(np.linalg.norm(both, axis=1), 1.0)
    assert np.array_equal(iti.directions(given, settings, HEADS[1:], seed=1), both[1:])
    assert not np.allclose(iti.directions(given, settings, HEADS, seed=2), both)


def test_a_head_that_puts_out_the_same_is_refused(given):
    flat = replace(given, heads=np.ones_like(given.heads))
    with pytest.raises(LofitError, match=r"^head \(0, 3\): got the same output on true and false answers"):
        iti.directions(flat, iti.Settings(), HEADS, seed=1)


@pytest.mark.parametrize("positions", ["all", "answer"])
def test_scores_of_answers_move_with_alpha_and_not_without(model, tokenizer, subject, positions):
    def scores(alpha):
        adapter = iti.fit(subject, iti.Settings(alpha=alpha, positions=positions), HEADS)
        assert type(adapter) is {"all": HeadAdapter, "answer": AnswerHeadAdapter}[positions]
        with adapter.attach(model):
            options = {"batch_size": 3, "max_new_tokens": 1, "reading": adapter.reader}
            predictions = predict(model, tokenizer, RECORDS, METRIC, **options)
        return numbers_of(predictions)

    base = numbers_of(predict(model, tokenizer, RECORDS, METRIC, batch_size=3, max_new_tokens=1))
    still, moved = scores(0.0), scores(15.0)
    (mc2, logprobs), (base_mc2, base_logprobs) = moved, base
    assert np.abs(logprobs - base_logprobs).min() > 1e-3 and np.abs(mc2 - base_mc2).max() > 0.1
    for one, other in zip(still, base, strict=True):
        # Read with its whole prompt, an answer's score is rounded another way.
        np.testing.assert_allclose(one, other, rtol=0, atol=0 if positions == "all" else 1e-4)


@pytest.mark.parametrize("positions", ["all", "answer"])
def test_alpha_0_is_the_base_model_to_the_bit(model, subject, positions):
    ids = torch.tensor([[5, 17, 40, 8, 99, 3]])
    plain = model(ids).logits
    with iti.fit(subject, iti.Settings(alpha=0.0, positions=positions), HEADS).attach(model):
        assert torch.equal(model(ids).logits, plain)


def test_offsets_equal_a_bias_of_the_output_projection(make_model, tokenizer, subject):
    adapter = iti.fit(subject, iti.Settings(), HEADS)
    model, ids = make_model(), torch.tensor([[5, 17, 40, 8, 99, 3]])
    with adapter.attach(model), torch.no_grad():
        expected = model(ids).logits
    assert adapter.served_as == "o_proj bias"
    for layer, block in enumerate(model.model.layers):
        wide = torch.zeros(4, 8)
        for (at, head), offset in zip(adapter.heads, adapter.offsets.detach(), strict=True):
            if at == layer:
                wide[head] = offset
        block.self_attn.o_proj.bias = torch.nn.Parameter(block.self_attn.o_proj.weight @ wide.flatten())
    torch.testing.assert_close(model(ids).logits, expected, rtol=1e-4, atol=1e-4)


def test_a_fit_reads_the_answers_once_whatever_is_searched(model, tokenizer, monkeypatch):
    calls = []
    plain = activations.collect
    monkeypatch.setattr(activations, "collect", lambda *args, **named: calls.append(1) or plain(*args, **named))
    grid = {"alpha": [1.0, 15.0, 60.0]}
    options = {"method": "iti", "val": RECORDS[2:], "tune": grid, "seed": 1}
    ranked = fit(model, tokenizer, RECORDS[:2], k=3, **options)
    assert len(calls) == 1
    named = fit(model, tokenizer, RECORDS[:2], heads=ranked.heads, **options)
    assert len(calls) == 2
    assert torch.equal(ranked.offsets, named.offsets)
    assert ranked.provenance.training["parameters"]["alpha"] in grid["alpha"]
    known = collect(model, tokenizer, head_layout(model), RECORDS[:2], RECORDS[2:], seed=1)
    given = fit(model, tokenizer, RECORDS[:2], k=3, **options, context=Context(activations=known))
    assert len(calls) == 2 and torch.equal(given.offsets, ranked.offsets)


def test_the_best_alpha_on_validation_is_chosen(model, tokenizer):
    options = {"method": "iti", "val": RECORDS[2:], "heads": HEADS, "seed": 1}
    scores = {}
    for alpha in (1.0, 15.0, 60.0):
        adapter = fit(model, tokenizer, RECORDS[:2], **options, alpha=alpha)
        with adapter.attach(model):
            rows = predict(model, tokenizer, RECORDS[2:], METRIC, batch_size=32, max_new_tokens=1)
        scores[alpha] = np.mean([row.scores["mc1"] for row in rows])
    chosen = fit(model, tokenizer, RECORDS[:2], **options, tune={"alpha": list(scores)})
    best = chosen.provenance.training["parameters"]["alpha"]
    assert scores[best] == max(scores.values())


def test_completions_alone_are_refused(model, tokenizer):
    with pytest.raises(LofitError, match=r"^record .*: got a completion and no wrong answer; expected data with"):
        fit(model, tokenizer, [{"prompt": "hot", "completion": "cold"}], method="iti", heads=HEADS)


def numbers_of(predictions):
    """MC2 of each record, and the log-probability of each answer."""
    evidence = [row.evidence["correct"] + row.evidence["incorrect"] for row in predictions]
    return np.array([row.scores["mc2"] for row in predictions]), np.array(evidence)


def activations_of(heads, labels, ends):
    count = len(labels)
    half = heads.astype(np.float16)
    return Activations(half, half[:, :, 0], labels, np.arange(count), np.zeros(count, bool), ends.astype(np.float16))
