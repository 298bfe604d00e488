"""RepE's directions on planted activations, against naive versions."""

import numpy as np
import pytest
import torch

from lofit import LofitError, Record, fit
from lofit.adapters.stream import StreamAdapter
from lofit.fitting.context import Context
from lofit.methods import repe
from lofit.training import activations as collecting
from lofit.training.activations import Activations

HIDDEN, LAYERS, PLANTED = 32, 3, 1
RECORDS = [
    Record(str(number), f"Q: {text} A:", " no", correct=(" no",), incorrect=(" yes",))
    for number, text in enumerate(["Can pigs fly?", "Can dogs fly?", "Can cats fly?"])
]


def unit(seed):
    vector = np.random.default_rng(seed).normal(size=HIDDEN)
    return vector / np.linalg.norm(vector)


TRUTH, LOUD = unit(1), unit(2)
LOUD = LOUD - (LOUD @ TRUTH) * TRUTH
LOUD /= np.linalg.norm(LOUD)


def planted(*, questions=60, val=20, gap=2.0, loud=0.8, seed=0, shape=(2, 3)):
    """States in which true and false answers differ by `gap` along TRUTH in one layer, among noise.

    Within a question, answers vary along LOUD, which says nothing of truth.
    """
    draw = np.random.default_rng(seed)
    blocks, labels, places = [], [], []
    for question in range(questions):
        start = 3 * draw.normal(size=(LAYERS, HIDDEN))
        for truth, count in zip((True, False), shape, strict=True):
            for _ in range(count):
                state = start + 0.05 * draw.normal(size=(LAYERS, HIDDEN))
                state[PLANTED] += gap / 2 * TRUTH * (1 if truth else -1) + loud * draw.normal() * LOUD
                blocks.append(state)
                labels.append(truth)
                places.append(question)
    places = np.array(places)
    rows = len(labels)
    return Activations(
        heads=np.zeros((rows, LAYERS, 4, 8), np.float16),
        blocks=np.array(blocks).astype(np.float16),
        labels=np.array(labels),
        questions=places,
        in_val=places >= questions - val,
        question_ends=np.zeros((0, LAYERS, 4, 8), np.float16),
    )


def settings(**values):
    return repe.Settings.of(values)


@pytest.mark.parametrize("direction", ["mean", "pca"])
@pytest.mark.parametrize("val", [20, 0])
def test_a_planted_direction_is_found_in_its_layer_with_its_sign(direction, val):
    known = planted(val=val)
    layers, offsets = repe.chosen_offsets(known, settings(direction=direction, strength=0.25), seed=42)
    assert layers == [PLANTED] and offsets.shape == (1, HIDDEN)
    trained = known.blocks[~known.in_val, PLANTED].astype(np.float64)
    length = 0.25 * np.mean([np.sqrt(sum(x * x for x in row)) for row in trained])
    assert np.linalg.norm(offsets[0]) == pytest.approx(length, rel=1e-9)
    assert offsets[0] @ TRUTH / length > 0.95


def test_turning_the_labels_turns_the_direction():
    known = planted()
    turned = Activations(**{**vars(known), "labels": ~known.labels})
    for direction in ("mean", "pca"):
        one, other = (
            repe.chosen_offsets(states, settings(direction=direction, layer=PLANTED), seed=1)[1][0]
            for states in (known, turned)
        )
        # Pairs of three false and two true answers go round otherwise, so the same to within the noise.
        assert one @ other < -0.9 * np.linalg.norm(one) * np.linalg.norm(other)


def test_centring_differences_in_a_fixed_order_loses_the_direction_and_a_random_order_finds_it():
    known = planted()
    states = known.blocks[:, PLANTED].astype(np.float64)
    rows = repe.pairs(known.labels, known.questions, ~known.in_val)
    differences = states[rows[:, 0]] - states[rows[:, 1]]
    fixed = np.linalg.svd(differences - differences.mean(axis=0))[2][0]
    assert abs(fixed @ TRUTH) < 0.2 and abs(fixed @ LOUD) > 0.9
    shuffled = repe.direction_of(states, rows, "pca", seed=5)
    assert shuffled @ TRUTH > 0.95


@pytest.mark.parametrize("count", [9, 80])
def test_the_component_is_the_first_right_singular_vector(count):
    rows = np.random.default_rng(count).normal(size=(count, HIDDEN)) * np.linspace(1, 3, HIDDEN)
    naive = np.linalg.svd(rows - rows.mean(axis=0))[2][0]
    ours = repe.first_component(rows)
    assert abs(ours @ naive) == pytest.approx(1, abs=1e-9) and np.linalg.norm(ours) == pytest.approx(1)


def test_half_of_the_pairs_are_turned_and_the_seed_says_which():
    rows = np.arange(1.0, 12.0)[:, None] * np.ones(3)
    one, same, other = (repe.in_random_order(rows, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one, same) and not np.array_equal(one, other)
    assert np.array_equal(np.abs(one), rows) and (one[:, 0] < 0).sum() == 5


def test_every_answer_is_in_a_pair_of_its_own_question_and_split():
    labels = np.array([1, 0, 0, 0, 1, 1, 0, 1, 0, 1], bool)
    questions = np.array([0, 0, 0, 0, 1, 1, 1, 2, 3, 4])
    chosen = questions != 4
    assert repe.pairs(labels, questions, chosen).tolist() == [[0, 1], [0, 2], [0, 3], [4, 6], [5, 6]]
    assert repe.pairs(labels, questions, questions == 4).shape == (0, 2)


def test_the_direction_is_made_of_training_records_alone():
    known = planted()
    blocks = known.blocks.copy()
    blocks[known.in_val] += 7 * LOUD.astype(np.float16)
    moved = Activations(**{**vars(known), "blocks": blocks})
    for direction in ("mean", "pca"):
        one, other = (
            repe.chosen_offsets(states, settings(direction=direction, layer=PLANTED), seed=1)[1]
            for states in (known, moved)
        )
        assert np.array_equal(one, other)


def test_validation_pairs_choose_the_layer_and_training_pairs_where_there_are_none():
    known = planted(gap=4.0)
    blocks = known.blocks.copy()
    # In the last layer the training answers differ even more, and the validation answers the other way.
    signs = np.where(known.labels, 1, -1)[:, None] * np.where(known.in_val, -8, 8)[:, None]
    blocks[:, 2] += (signs * unit(7)).astype(np.float16)
    tricky = Activations(**{**vars(known), "blocks": blocks})
    assert repe.chosen_offsets(tricky, settings(), seed=1)[0] == [PLANTED]
    kept = ~tricky.in_val
    alone = Activations(
        **{name: value if name == "question_ends" else value[kept] for name, value in vars(tricky).items()}
    )
    assert repe.chosen_offsets(alone, settings(), seed=1)[0] == [2]


def test_more_layers_come_in_order_each_with_its_own_norm():
    known = planted()
    scaled = Activations(**{**vars(known), "blocks": known.blocks * np.array([1, 2, 4], np.float16)[None, :, None]})
    layers, offsets = repe.chosen_offsets(scaled, settings(layers=3), seed=1)
    norms = np.linalg.norm(offsets, axis=1)
    assert layers == [0, 1, 2]
    assert norms[1] / norms[0] == pytest.approx(2, rel=0.1) and norms[2] / norms[0] == pytest.approx(4, rel=0.1)


def test_a_layer_that_overflows_float16_is_never_chosen():
    known = planted()
    known.blocks[3, PLANTED, 0] = np.inf
    assert PLANTED not in repe.chosen_offsets(known, settings(layers=2), seed=1)[0]
    with pytest.raises(LofitError, match="repe: got a direction from 0 layers; expected 1 whose states are finite"):
        repe.chosen_offsets(known, settings(layer=PLANTED), seed=1)


@pytest.mark.parametrize("direction", ["mean", "pca"])
def test_answers_that_do_not_differ_give_no_direction(direction):
    known = planted()
    same = Activations(**{**vars(known), "blocks": np.ones_like(known.blocks)})
    with pytest.raises(LofitError, match="got a direction from 0 layers"):
        repe.chosen_offsets(same, settings(direction=direction), seed=1)


def test_records_without_contrast_are_refused():
    known = planted()
    with pytest.raises(LofitError, match="records: got no question with a true and a false answer"):
        repe.chosen_offsets(Activations(**{**vars(known), "labels": np.ones_like(known.labels)}), settings(), seed=1)


@pytest.mark.parametrize(
    "values, fault",
    [
        ({"layer": 3}, "layer: got 3; expected 0 to 2, the layers of the model"),
        ({"layers": 4}, "layers: got 4; expected 1 to 3, the layers of the model"),
        ({"layers": 2, "layer": 0}, "layers: got 2 beside layer 0; expected one of the two"),
        ({"strength": 0.0}, "strength: got 0.0; expected greater than 0"),
        ({"direction": "svd"}, "direction: got 'svd'; expected 'mean' or 'pca'"),
    ],
)
def test_faults_of_the_settings_are_said_in_words(make_model, tokenizer, values, fault):
    with pytest.raises(LofitError, match=fault):
        fit(make_model(num_hidden_layers=LAYERS), tokenizer, RECORDS, method="repe", **values)


# Whole fits ----------------------------------------------------------------------------------------------------------


def test_a_fit_returns_the_offset_for_the_model_and_is_the_same_each_time(make_model, tokenizer):
    model, known = make_model(num_hidden_layers=LAYERS), planted()
    runs = [
        fit(
            *(model, tokenizer, RECORDS),
            **{"method": "repe", "direction": "pca", "strength": 0.3, "context": Context(activations=known)},
        )
        for _ in range(2)
    ]
    wanted = repe.chosen_offsets(known, settings(direction="pca", strength=0.3), seed=42)[1]
    assert type(runs[0]) is StreamAdapter and runs[0].layers == [PLANTED]
    assert torch.equal(runs[0].offsets, torch.from_numpy(wanted.astype(np.float32)))
    assert torch.equal(runs[0].offsets, runs[1].offsets)
    assert runs[0].provenance.training["parameters"]["strength"] == 0.3


def test_a_search_finds_the_strength_and_collects_once(make_model, tokenizer, monkeypatch):
    model, calls = make_model(num_hidden_layers=LAYERS), []
    monkeypatch.setattr(collecting, "collect", lambda *_, **__: calls.append(1) or planted())
    context = Context()
    adapter = fit(
        *(model, tokenizer, RECORDS[:2]),
        **{"method": "repe", "val": RECORDS[2:], "tune": {"strength": [0.05, 0.1, 0.2]}, "context": context},
    )
    assert calls == [1]
    chosen = adapter.provenance.training["parameters"]["strength"]
    assert chosen in (0.05, 0.1, 0.2)
    norm = np.linalg.norm(repe.chosen_offsets(planted(), settings(strength=chosen), seed=42)[1])
    assert adapter.offsets.norm().item() == pytest.approx(norm, rel=1e-5)
