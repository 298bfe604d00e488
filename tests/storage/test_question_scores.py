"""Scores of single questions, written and read back."""

import numpy as np

from lofit.storage.question_scores import QuestionScores, read_question_scores, write_question_scores


def test_what_is_written_is_read_back_whatever_the_tasks_differ_in(tmp_path):
    parts = {
        (draw, fold): {
            "mmlu": QuestionScores(("mmlu_a:0", "mmlu_b:0", "mmlu_a:7"), {"acc": np.array([1.0, 0.0, draw / 3])}),
            "nq, open": QuestionScores(
                ("0",), {"exact_match": np.array([0.5]), "exact_match (first, line)": np.array([fold * 1e-7])}
            ),
        }
        for draw, fold in ((1, 0), (1, 1), (2, 0))
    }
    write_question_scores(tmp_path / "scores.csv", parts)
    found = read_question_scores(tmp_path / "scores.csv")
    assert list(found) == list(parts)
    for part, tasks in parts.items():
        assert list(found[part]) == list(tasks)
        for task, reached in tasks.items():
            assert found[part][task].questions == reached.questions
            assert list(found[part][task].scores) == list(reached.scores)
            for metric, values in reached.scores.items():
                np.testing.assert_allclose(found[part][task].scores[metric], values, rtol=1e-5)
    write_question_scores(tmp_path / "again.csv", parts)
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "scores.csv").read_bytes()
