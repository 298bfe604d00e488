"""Heads listed in a file: read to the letter, and refused in words."""

import numpy as np
import pytest

from lofit import HeadLayout, LofitError
from lofit.rankings import top_heads
from lofit.rankings.listed import NEEDS, Settings, rank, read_head_list
from lofit.training.case import Case


def test_the_ranking_is_the_files_and_no_other_head_can_be_chosen(tmp_path):
    heads = [(3, 3), (0, 1), (2, 0)]
    np.save(tmp_path / "heads.npy", np.array(heads))
    layout = HeadLayout(4, 8, 8, ("o_proj",) * 4)
    scores = rank(Case(layout), Settings(file=str(tmp_path / "heads.npy")), None)
    assert scores.shape == (4, 8) and NEEDS is None
    assert [top_heads(scores, k) for k in (1, 2, 3)] == [heads[:1], heads[:2], heads]
    with pytest.raises(LofitError, match=r"^k: got 4; expected 1 to 3, the heads that are ranked$"):
        top_heads(scores, 4)


def test_a_file_has_to_be_named():
    with pytest.raises(LofitError, match=r"^file: got ' '; expected a text that is not blank$"):
        Settings.of({"file": " "})


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8", "float64", ">i8"])
def test_a_published_list_of_heads_keeps_its_order(tmp_path, dtype):
    heads = [(31, 3), (0, 17), (12, 0), (12, 31)]
    np.save(tmp_path / "top160heads.npy", np.array(heads, dtype=dtype))
    assert read_head_list(tmp_path / "top160heads.npy", (32, 32)) == heads


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_list_of_160_heads(tmp_path, order):
    places = np.random.default_rng(0).permutation(1024)[:160]
    np.save(tmp_path / "heads.npy", np.array([places // 32, places % 32], order=order).T)
    heads = read_head_list(tmp_path / "heads.npy", (32, 32))
    assert heads == [divmod(int(place), 32) for place in places]
    assert all(type(part) is int for head in heads for part in head)


@pytest.mark.parametrize(
    "text",
    ["layer,head\n3,1\n0,7\n", "head,layer\n1,3\n7,0", "\ufefflayer, head\r\n3.0, 1.0\r\n\r\n0, 7\r\n"],
)
def test_a_list_of_heads_may_be_csv(tmp_path, text):
    (tmp_path / "heads.csv").write_text(text, newline="")
    assert read_head_list(tmp_path / "heads.csv", (4, 8)) == [(3, 1), (0, 7)]


@pytest.mark.parametrize(
    ("heads", "fault"),
    [
        (np.zeros((2, 3), int), r"got int64 of shape \(2, 3\); expected whole numbers of shape \(K, 2\)"),
        (np.zeros((2, 1, 2), int), r"of shape \(2, 1, 2\)"),
        (np.int64(3), r"of shape \(\)"),
        (np.array([["0", "1"]]), "got <U1"),
        (np.array([[True, False]]), "got bool"),
        (np.array([[0.5, 1.0]]), r"got head \(0.5, 1.0\); expected whole numbers, layers 0 to 3 and heads 0 to 7"),
        (np.array([[0, np.nan]]), r"got head \(0.0, nan\)"),
        (np.array([[0, np.inf]]), r"got head \(0.0, inf\)"),
        (np.array([[0, 0], [4, 0]]), r"got head \(4, 0\)"),
        (np.array([[3, 7], [0, 8]]), r"got head \(0, 8\)"),
        (np.array([[0, -1]]), r"got head \(0, -1\)"),
        (np.array([[1, 1], [2, 5], [1, 1]]), r"got head \(1, 1\) twice"),
    ],
)
def test_a_list_of_heads_that_cannot_be_meant(tmp_path, heads, fault):
    np.save(tmp_path / "heads.npy", heads)
    refuses_list(tmp_path / "heads.npy", fault)


def test_a_pickled_list_of_heads_is_not_opened(tmp_path):
    np.save(tmp_path / "heads.npy", np.array([[(0, 1), None]], dtype=object), allow_pickle=True)
    refuses_list(tmp_path / "heads.npy", "not a whole array of numbers .*pickle")


def test_files_that_only_pretend_to_be_a_list_of_heads(tmp_path):
    file = tmp_path / "heads.npy"
    np.save(file, np.zeros((160, 2), int))
    whole = file.read_bytes()
    for content in (b"", b"layer,head\n", whole[:40], whole[:-1]):
        file.write_bytes(content)
        refuses_list(file, "not a whole array of numbers")
    with file.open("wb") as opened:
        np.savez(opened, np.zeros((1, 2)))
    refuses_list(file, "not a whole array of numbers")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "got columns ; expected layer, head"),
        (b"layer,head,norm\n0,0,1.5\n", "got columns layer, head, norm; expected layer, head; best head first"),
        (b"layer,head\n0,1\n2,x\n", "line 3: got 2,x; expected two whole numbers"),
        (b"layer,head\n0,1\n2\n", "line 3: got 2; expected"),
        (b"layer,head\n0,1.5\n", "line 2: got 0,1.5; expected"),
        (b"layer,head\n-1,1\n", "line 2: got -1,1; expected"),
        (b"layer,head\n1,9\n", r"got head \(1, 9\)"),
        (b"layer,head\n1,2\n1,2\n", r"got head \(1, 2\) twice"),
        (b"layer,head\n\xff", "byte 11 is not UTF-8"),
    ],
)
def test_tables_that_are_no_list_of_heads(tmp_path, content, fault):
    (tmp_path / "heads.csv").write_bytes(content)
    refuses_list(tmp_path / "heads.csv", fault)


def test_a_list_of_heads_is_a_file_of_two_kinds(tmp_path):
    refuses_list(tmp_path / "heads.npy", "no such file")
    refuses_list(tmp_path / "heads.txt", "got .txt; expected .npy or .csv")
    (tmp_path / "heads.csv").mkdir()
    refuses_list(tmp_path / "heads.csv", "no such file")


# ---------------------------------------------------------------------------------------------------------- helpers


def refuses_list(file, fault):
    with pytest.raises(LofitError, match=fault) as caught:
        read_head_list(file, (4, 8))
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(file))
