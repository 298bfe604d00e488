"""The small tables of a run come back from their files."""

import numpy as np
import pytest

from lofit.storage.tables import (
    read_norms,
    read_ranking,
    read_scores,
    write_heads,
    write_norms,
    write_ranking,
    write_scores,
)


@pytest.fixture
def norms():
    return np.random.default_rng(0).random((5, 4))


def test_norms_survive_their_file(tmp_path, norms):
    write_norms(tmp_path / "norms.csv", {0: norms, 1: 2 * norms})
    read = read_norms(tmp_path / "norms.csv")
    assert list(read) == [0, 1]
    np.testing.assert_allclose(read[0], norms, rtol=1e-8)
    np.testing.assert_allclose(read[1], 2 * norms, rtol=1e-8)
    assert (tmp_path / "norms.csv").read_text().startswith(f"fold,layer,head,norm\n0,0,0,{norms[0, 0]:.9g}\n0,0,1,")


def test_a_single_norm_survives_its_file(tmp_path):
    write_norms(tmp_path / "norms.csv", {1: np.array([[0.5]])})
    assert {fold: norms.tolist() for fold, norms in read_norms(tmp_path / "norms.csv").items()} == {1: [[0.5]]}


@pytest.mark.parametrize(
    "parts",
    [{}, {(1, 0): [(3, 1), (0, 7)]}, {(1, 0): [(3, 1)], (1, 1): [(0, 7), (3, 1)], (2, 0): [(12, 0)], (2, 1): [(0, 7)]}],
)
def test_a_ranking_survives_its_file_in_its_order(tmp_path, parts):
    write_ranking(tmp_path / "ranking.csv", parts)
    assert read_ranking(tmp_path / "ranking.csv") == parts
    assert (tmp_path / "ranking.csv").read_text().startswith("draw,fold,layer,head\n")


def test_chosen_heads_are_in_the_order_of_the_model_however_they_were_ranked(tmp_path):
    parts = {(1, 0): [(10, 1), (3, 1), (0, 7)], (1, 1): [(2, 2)]}
    write_heads(tmp_path / "heads.csv", parts)
    assert read_ranking(tmp_path / "heads.csv") == {(1, 0): [(0, 7), (3, 1), (10, 1)], (1, 1): [(2, 2)]}
    first = (tmp_path / "heads.csv").read_bytes()
    write_heads(tmp_path / "heads.csv", {part: heads[::-1] for part, heads in parts.items()})
    assert (tmp_path / "heads.csv").read_bytes() == first


def test_a_part_without_heads_is_left_out(tmp_path):
    write_heads(tmp_path / "heads.csv", {(1, 0): [], (1, 1): [(2, 2)]})
    assert read_ranking(tmp_path / "heads.csv") == {(1, 1): [(2, 2)]}


def test_scores_survive_their_file(tmp_path):
    parts = {(draw, fold): {"mc1": [1.0, 0.0], "mc2": [0.25 * draw, fold / 3]} for draw in (1, 2) for fold in (0, 1)}
    write_scores(tmp_path / "scores.csv", parts)
    read = read_scores(tmp_path / "scores.csv")
    assert list(read) == list(parts)
    for part, scores in parts.items():
        assert list(read[part]) == list(scores)
        for name, values in scores.items():
            np.testing.assert_allclose(read[part][name], values, rtol=1e-5)
    assert (tmp_path / "scores.csv").read_text().startswith("draw,fold,mc1,mc2\n1,0,1,0.25\n1,0,0,0\n1,1,1,0.25\n")
