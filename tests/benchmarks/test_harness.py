"""TruthfulQA beside lm-eval: the same answers get the same log-probabilities and scores."""

import pytest

from benchmarks import harness
from benchmarks.measure import absolute, compared


def test_log_probabilities_and_scores_are_those_of_lm_eval(setting):
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install -e '.[out-of-domain]'")
    series = next(harness.beside_lm_eval(setting))
    results = []
    for variant in series.variants:
        with variant.around():
            results.append(variant.run())
    assert [variant.name for variant in series.variants] == [
        "lofit",
        "lm-eval, batch_size 16",
        "lm-eval, batch_size 1, its default",
    ]
    answers = sum(len(record.correct) + len(record.incorrect) for record in setting.texts.six_shot[:3])
    assert len(results[1]["log-probabilities"]) == answers
    assert compared(series, results, 1e-4)[1] == []
    assert all(met < 1e-4 for met in absolute(series, results)[1:])
    assert series.found().count("MC1") == 3


def test_without_lm_eval_there_is_lofit_alone_and_a_word(setting, monkeypatch, capsys):
    monkeypatch.setattr(harness, "find_spec", lambda name: None)
    series = next(harness.beside_lm_eval(setting))
    assert [variant.name for variant in series.variants] == ["lofit"]
    assert "pip install -e '.[out-of-domain]'" in series.note
    assert "lm-eval is not installed" in capsys.readouterr().out


def test_documents_have_the_columns_of_the_hub(texts):
    record = texts.six_shot[0]
    document = harness.document(record)
    assert document["question"] in record.scoring_prompt
    assert document["mc1_targets"]["labels"] == [1] + [0] * len(record.incorrect)
    assert document["mc2_targets"]["labels"] == [1] * len(record.correct) + [0] * len(record.incorrect)
    assert [f" {choice}" for choice in document["mc2_targets"]["choices"]] == [*record.correct, *record.incorrect]
