"""Scores: multiple choice against its definition, exact match as a table, generation one by one."""

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from lofit import HeadAdapter
from lofit.errors import LofitError
from lofit.models.generation import generate
from lofit.models.logprobs import score_completions
from lofit.models.tokens import encode
from lofit.scoring.metrics import exact_match, means, multiple_choice, named, trim_start
from lofit.scoring.predict import Prediction, predict, score_table
from lofit.storage.tables import read_scores, write_scores
from lofit.tasks import clutrr, mquake
from lofit.tasks.record import Metric, Options, Record

CHOICE = Metric("multiple_choice", "clean")
CLEAN = Metric("exact_match", "clean")
MQUAKE_LOFIT = Metric("exact_match", "lofit", after="A:", strip=False, plain=False)
CLUTRR_CLEAN = Metric("exact_match", "clean", stops=("\n", "."))
CLUTRR_LOFIT = Metric("exact_match", "lofit", stops=("'s\n", "."))
PROMPTS = ["Q: Can pigs fly? A:", "A:", "Answer: Roy is Anna 's\n", "Q: Where did the cat sit? A:", "Q:"]


@pytest.fixture(scope="module", params=["rotary positions", "learned positions"])
def decoder(request, model):
    if request.param == "rotary positions":
        return model
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=320,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=256,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.2,
    )
    return GPT2LMHeadModel(config).eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("correct", "incorrect", "mc1", "mc2", "mc3"),
    [
        ([math.log(0.3), math.log(0.1)], [math.log(0.2)], 1, 4 / 6, 1 / 2),
        ([math.log(0.1), math.log(0.3)], [math.log(0.2)], 0, 4 / 6, 1 / 2),
        ([-1.0], [-1.0], 0, 1 / 2, 0),
        ([-1.0, -3.0, -0.5], [-2.0, -9.0], 1, None, 2 / 3),
        ([-2000.0], [-2001.0], 1, math.e / (math.e + 1), 1),
    ],
)
def test_multiple_choice_on_cases_known_by_hand(correct, incorrect, mc1, mc2, mc3):
    scores = multiple_choice(correct, incorrect)
    assert (scores["mc1"], scores["mc3"]) == (mc1, pytest.approx(mc3))
    assert mc2 is None or scores["mc2"] == pytest.approx(mc2)


@pytest.mark.parametrize("seed", range(20))
def test_multiple_choice_is_that_of_a_loop(seed):
    draw = random.Random(seed)
    correct, incorrect = ([draw.uniform(-30, 0) for _ in range(draw.randint(1, 5))] for _ in range(2))
    best, true, above = True, 0.0, 0
    for score in incorrect:
        best = best and correct[0] > score
    for score in correct:
        true += math.exp(score)
        above += all(score > other for other in incorrect)
    total = true + sum(math.exp(score) for score in incorrect)
    assert multiple_choice(correct, incorrect) == pytest.approx(
        {"mc1": float(best), "mc2": true / total, "mc3": above / len(correct)}
    )


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_a_completion_scores_the_same_alone_and_in_a_batch(decoder, tokenizer, batch_size):
    texts = [
        (PROMPTS[i % 5], answer) for i, answer in enumerate([" no", " No, pigs", " brother", "n", " the mat."] * 2)
    ]
    rows = [encode(tokenizer, *pair, end=tokenizer.eos_token_id if i % 2 else None) for i, pair in enumerate(texts)]
    expected = [score_by_hand(decoder, row) for row in rows]
    assert score_completions(decoder, rows, pad_id=7, batch_size=batch_size) == pytest.approx(expected, abs=1e-4)
    assert max(expected) - min(expected) > 1


def test_answers_that_begin_alike_are_scored_apart(model, tokenizer):
    rows = [encode(tokenizer, "Q: A:", answer) for answer in (" No", " No, pigs", " No, pigs cannot fly")]
    scores = score_completions(model, rows, pad_id=0, batch_size=3)
    assert scores == sorted(scores, reverse=True) and len(set(scores)) == 3


def test_multiple_choice_predictions_come_in_the_order_of_the_records(model, tokenizer):
    records = [
        Record(f"{i}", PROMPTS[i], " no", " yes", correct=(" no", " No, pigs")[: 1 + i % 2], incorrect=(" a dog",) * i)
        for i in (3, 1, 2)
    ]
    predictions = predict(model, tokenizer, records, CHOICE, batch_size=2, max_new_tokens=1)
    assert [prediction.id for prediction in predictions] == ["3", "1", "2"]
    for record, prediction in zip(records, predictions, strict=True):
        correct, incorrect = (
            [score_by_hand(model, encode(tokenizer, record.prompt, answer)) for answer in answers]
            for answers in (record.correct, record.incorrect)
        )
        assert prediction.evidence["correct"] == pytest.approx(correct, abs=1e-4)
        assert prediction.evidence["incorrect"] == pytest.approx(incorrect, abs=1e-4)
        assert prediction.scores == pytest.approx(multiple_choice(correct, incorrect), abs=1e-4)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_generation_in_padded_batches_is_that_of_one_prompt_after_the_other(decoder, tokenizer, batch_size):
    texts = generate(decoder, tokenizer, PROMPTS, batch_size=batch_size, max_new_tokens=6)
    assert texts == [continue_by_hand(decoder, tokenizer, prompt, 6) for prompt in PROMPTS]
    assert len(set(texts)) > 1


def test_generation_is_that_of_the_edited_model(model, tokenizer):
    plain = generate(model, tokenizer, PROMPTS, batch_size=2, max_new_tokens=6)
    with HeadAdapter([(1, 0)], 5 * torch.ones(1, 8)).attach(model):
        edited = generate(model, tokenizer, PROMPTS, batch_size=2, max_new_tokens=6)
        assert edited == [continue_by_hand(model, tokenizer, prompt, 6) for prompt in PROMPTS]
    assert edited != plain


def test_generation_stops_at_the_end_of_sequence(make_model, tokenizer):
    model = make_model()
    first = model(torch.tensor([tokenizer(PROMPTS[0])["input_ids"]])).logits[0, -1].argmax().item()
    model.generation_config.eos_token_id = first
    (text,) = generate(model, tokenizer, PROMPTS[:1], batch_size=1, max_new_tokens=6)
    assert text == ""


@pytest.mark.parametrize("habit", [{"repetition_penalty": 5.0}, {"no_repeat_ngram_size": 1}, {"min_new_tokens": 6}])
def test_generation_is_greedy_whatever_the_model_prefers(make_model, tokenizer, habit):
    model = make_model()
    for key, value in habit.items():
        setattr(model.generation_config, key, value)
    if "min_new_tokens" in habit:
        model.generation_config.eos_token_id = greedy_ids(model, tokenizer, PROMPTS[0], 1)[0]
        expected = []
    else:
        expected = greedy_ids(model, tokenizer, PROMPTS[0], 8)
    (text,) = generate(model, tokenizer, PROMPTS[:1], batch_size=1, max_new_tokens=8)
    assert text == tokenizer.decode(expected, skip_special_tokens=True)


@pytest.mark.parametrize("kind", ["accuracy", "preference_accuracy"])
def test_a_pair_or_a_choice_is_right_where_the_right_answer_is_likelier(model, tokenizer, kind):
    metric = Metric(kind)
    pairs = [(" no", " yes"), (" the cat", " mat"), (" yes", " no"), (" mat", " the cat")]
    if kind == "accuracy":
        records = [
            Record(str(i), PROMPTS[0], right, correct=(right,), incorrect=(wrong,))
            for i, (right, wrong) in enumerate(pairs)
        ]
    else:
        records = [Record(str(i), PROMPTS[0], right, wrong) for i, (right, wrong) in enumerate(pairs)]
    predictions = predict(model, tokenizer, records, metric, batch_size=3, max_new_tokens=5)
    expected = []
    for right, wrong in pairs:
        rows = [encode(tokenizer, PROMPTS[0], text) for text in (right, wrong)]
        better, worse = (score_by_hand(model, row) for row in rows)
        expected.append({kind: float(better > worse)})
    assert [prediction.scores for prediction in predictions] == expected
    assert {row[kind] for row in expected} == {0.0, 1.0}
    assert score_table(predictions, metric) == {kind: [row[kind] for row in expected]}


def test_choices_are_scored_after_the_scoring_prompt(model, tokenizer):
    plain = Record("1", PROMPTS[0], " no", correct=(" no",), incorrect=(" yes",))
    shown = replace(plain, scoring_prompt=PROMPTS[3])
    there = Record("1", PROMPTS[3], " no", correct=(" no",), incorrect=(" yes",))
    evidence = [
        predict(model, tokenizer, [record], CHOICE, batch_size=3, max_new_tokens=5)[0].evidence
        for record in (plain, shown, there)
    ]
    assert evidence[1] == evidence[2] != evidence[0]


@pytest.mark.parametrize("prompts", [[""], ["Q:", ""]])
def test_a_prompt_without_tokens_is_refused(model, tokenizer, prompts):
    with pytest.raises(LofitError, match=r"^prompt '': no token; expected at least one$"):
        generate(model, tokenizer, prompts, batch_size=2, max_new_tokens=3)


def test_generated_predictions_come_in_the_order_of_the_records(model, tokenizer):
    records = [Record(str(i), prompt, " no") for i, prompt in enumerate(PROMPTS)]
    predictions = predict(model, tokenizer, records, CLEAN, batch_size=2, max_new_tokens=5)
    assert [prediction.id for prediction in predictions] == ["0", "1", "2", "3", "4"]
    assert [prediction.evidence["generated"] for prediction in predictions] == [
        continue_by_hand(model, tokenizer, prompt, 5) for prompt in PROMPTS
    ]
    assert all(prediction.evidence["target"] == "no" for prediction in predictions)


@pytest.mark.parametrize(
    ("metric", "text", "prediction", "match"),
    [
        (CLEAN, " Sweden", "Sweden", True),
        (CLEAN, "Sweden", "Sweden", True),
        (CLEAN, " sWEDEN \nQ: And", "sWEDEN", True),
        (CLEAN, "\n Sweden\n", "Sweden", True),
        (CLEAN, " Kingdom of Sweden", "Kingdom of Sweden", True),
        (CLEAN, " Sweden.", "Sweden.", False),
        (CLEAN, " Swedenborg", "Swedenborg", False),
        (CLEAN, " Norway", "Norway", False),
        (CLEAN, "", "", False),
        (CLEAN, "\n", "", False),
        (MQUAKE_LOFIT, "Sweden", "Sweden", True),
        (MQUAKE_LOFIT, "SWEDEN\nQ: And", "SWEDEN", True),
        (MQUAKE_LOFIT, " Sweden", " Sweden", False),
        (MQUAKE_LOFIT, "Sweden ", "Sweden ", False),
        (MQUAKE_LOFIT, "\nSweden", "", False),
        (MQUAKE_LOFIT, "Norway\nQ: And? A:Sweden\nQ:", "Sweden", True),
        (CLUTRR_CLEAN, "Sweden\nQ: And. So", "Sweden", True),
        (CLUTRR_CLEAN, " Sweden. And\nso", "Sweden", True),
        (CLUTRR_LOFIT, "Sweden\nQ: And. So", "Sweden\nQ: And", False),
        (CLUTRR_LOFIT, " Sweden . And", "Sweden", True),
        (CLUTRR_LOFIT, "Sweden 's\n", "Sweden", True),
    ],
)
def test_exact_match_by_protocol(metric, text, prediction, match):
    space = "" if metric.protocol == "lofit" else " "
    record = Record("1", "Q: A:", f"{space}Sweden", aliases=("Kingdom of Sweden", "SE"))
    assert exact_match(text, record, metric) == (prediction, match)


def test_metrics_are_named_by_their_protocol_and_survive_their_file(tmp_path):
    predictions = [Prediction("a", {"mc1": 1.0, "mc2": 1 / 3}, {}), Prediction("b", {"mc1": 0.0, "mc2": 0.25}, {})]
    scores = score_table(predictions, CHOICE)
    assert scores == {"mc1_clean": [1.0, 0.0], "mc2_clean": [1 / 3, 0.25]}
    assert list(score_table(predictions, MQUAKE_LOFIT)) == ["mc1_lofit", "mc2_lofit"]
    assert list(score_table(predictions, replace(CHOICE, protocol=""))) == ["mc1", "mc2"]
    assert named("mc1", CHOICE) == "mc1_clean" and named("mc1", Metric("multiple_choice")) == "mc1"
    write_scores(tmp_path / "scores.csv", {(1, 0): scores, (1, 1): scores})
    read = read_scores(tmp_path / "scores.csv")
    assert list(read) == [(1, 0), (1, 1)]
    for part in read.values():
        assert list(part) == list(scores)
        assert part["mc2_clean"].tolist() == pytest.approx(scores["mc2_clean"], abs=1e-6)


def test_means_are_taken_over_records_and_then_over_folds():
    assert means({(1, 0): {"mc1": [1.0, 0.0, 0.0]}}) == {"mc1": 0.333333}
    two = means({(1, 0): {"mc1": [1.0, 0.0, 0.0]}, (1, 1): {"mc1": [1.0]}})
    assert two == {"mc1": 0.666667, "mc1_fold_0": 0.333333, "mc1_fold_1": 1.0}


def test_draws_have_means_of_their_own_too():
    parts = {(1, 0): {"mc1": [1.0, 0.0]}, (1, 1): {"mc1": [1.0]}, (2, 0): {"mc1": [0.0]}, (2, 1): {"mc1": [0.25]}}
    assert means(parts) == {
        "mc1": 0.4375,
        **{"mc1_draw_1": 0.75, "mc1_draw_2": 0.125},
        **{"mc1_fold_0": 0.25, "mc1_fold_1": 0.625},
    }
    one_fold = {part: scores for part, scores in parts.items() if part[1] == 0}
    assert means(one_fold) == {"mc1": 0.25, "mc1_draw_1": 0.5, "mc1_draw_2": 0.0}


def test_blanks_at_the_start_of_an_answer_go_unless_they_count():
    assert trim_start("\n no ", CLEAN) == "no " and trim_start("\n no ", MQUAKE_LOFIT) == "\n no "


def test_a_prediction_is_one_flat_json_row():
    row = Prediction("a", {"mc1": 1 / 3}, {"correct": [-1.0]}).to_json()
    assert row == {"id": "a", "mc1": 0.333333, "correct": [-1.0]}


LOOKS_ALIKE = [
    ("cafe\u0301", "caf\u00e9"),
    ("Stra\u00dfe", "STRASSE"),
    ("co\u00a0ld", "co ld"),
    ("\u200bcold", "cold"),
    ("co  ld", "co ld"),
]
"""The same text, as Unicode may write it: composed, in capitals, with another blank, with a mark without width."""


@pytest.mark.parametrize(("target", "said"), LOOKS_ALIKE)
def test_texts_that_look_the_same_match_but_under_the_published_protocol(target, said):
    record = Record("1", "Q:", f" {target}", aliases=(f" {target}",))
    assert exact_match(said, record, Metric("exact_match", "clean"))[1]
    assert not exact_match(said, record, Metric("exact_match", "lofit", plain=False))[1]
    assert exact_match(target, Record("1", "Q:", f" {said}"), Metric("exact_match", "clean"))[1]
    assert clutrr.aims(Path(), Options())[1].plain and mquake.aims(Path(), Options())[1].plain
    published = Options(protocol="lofit")
    assert not clutrr.aims(Path(), published)[1].plain and not mquake.aims(Path(), published)[1].plain


@pytest.mark.parametrize(("target", "said"), [("cold", "cold."), ("1,000", "1000"), ("r\u00e9sum", "resum")])
def test_other_texts_do_not(target, said):
    assert not exact_match(said, Record("1", "Q:", f" {target}"), Metric("exact_match", "clean"))[1]


# ---------------------------------------------------------------------------------------------------------- helpers


@torch.no_grad()
def score_by_hand(model, row):
    logprobs = model(torch.tensor([row.ids])).logits[0].double().log_softmax(-1)
    return sum(logprobs[at - 1, row.ids[at]].item() for at in range(row.start, len(row.ids)))


@torch.no_grad()
def greedy_ids(model, tokenizer, prompt, count):
    ids = tokenizer(prompt)["input_ids"]
    start = len(ids)
    while len(ids) < start + count and tokenizer.eos_token_id not in ids[start:]:
        ids = [*ids, model(torch.tensor([ids])).logits[0, -1].argmax().item()]
    return ids[start:]


def continue_by_hand(model, tokenizer, prompt, count):
    return tokenizer.decode(greedy_ids(model, tokenizer, prompt, count), skip_special_tokens=True)
