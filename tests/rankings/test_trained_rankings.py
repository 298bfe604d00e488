"""Rankings that train: offsets on all heads, and scales under a group penalty."""

import numpy as np
import pytest
import torch

import lofit
from lofit import HeadAdapter, LofitError, Record, head_layout
from lofit.adapters.group_lasso_heads import GroupLassoHeads, shrunk
from lofit.rankings import group_lasso, offset_norm, scale_norm, top_heads
from lofit.training.initial import fresh_vectors
from lofit.training.settings import TrainingSettings
from lofit.training.subject import Subject

ROWS = [
    ("Q: Can pigs fly? A:", " No, pigs cannot fly"),
    ("Q: Where did the cat sit? A:", " on the mat"),
    ("Q: Who? A:", " Roy"),
]
RECORDS = [Record(str(number), *row) for number, row in enumerate(ROWS)]


def make_subject(model, tokenizer, **changes):
    parts = {"layout": head_layout(model), "model": model, "tokenizer": tokenizer, "records": RECORDS}
    return Subject(**{**parts, **changes})


def test_offsets_are_ranked_by_their_norms_after_training_all(model, tokenizer):
    settings = {"lr": 0.02, "epochs": 3, "batch_size": 2}
    scores = offset_norm.rank(make_subject(model, tokenizer), offset_norm.Settings(**settings), None)
    adapter = HeadAdapter(head_layout(model).all_heads(), offsets=fresh_vectors(8, 8, seed=42))
    make_subject(model, tokenizer).train(adapter, TrainingSettings(**settings))
    expected = [sum(number**2 for number in offset) ** 0.5 for offset in adapter.offsets.tolist()]
    np.testing.assert_allclose(scores, np.array(expected).reshape(2, 4), rtol=1e-5)
    assert len(set(scores.flatten())) == 8 and scores.min() > 0.02


def test_a_penalty_may_be_put_on_the_offsets(model, tokenizer):
    plain, pulled = (
        offset_norm.rank(make_subject(model, tokenizer), offset_norm.Settings(epochs=2, l1=l1), None)
        for l1 in (0.0, 100.0)
    )
    assert pulled.sum() < plain.sum()


def test_the_proximal_step_number_by_number():
    vectors = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    vectors[2] = 0
    vectors[4] /= vectors[4].norm()
    for by in (0.0, 0.3, 1.0, 2.0, 50.0):
        expected = []
        for vector in vectors.tolist():
            length = sum(number**2 for number in vector) ** 0.5
            factor = max(0.0, 1 - by / length) if length else 0.0
            expected.append([number * factor for number in vector])
        mine = shrunk(vectors, by)
        torch.testing.assert_close(mine, torch.tensor(expected, dtype=torch.float64))
        assert mine.isfinite().all()
        if by == 0:
            assert torch.equal(mine, vectors)


def test_the_proximal_step_minimises_what_it_is_for():
    """prox(a) is the minimum of |x - a|^2 / 2 + by * |x|: no other point near it is lower."""
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(1, 4, generator=generator, dtype=torch.float64)

    def cost(x, by):
        return (x - start).square().sum() / 2 + by * x.norm()

    for by in (0.2, 1.0, 10.0):
        best = shrunk(start, by)
        for _ in range(200):
            other = best + 0.05 * torch.randn(1, 4, generator=generator, dtype=torch.float64)
            assert cost(best, by) < cost(other, by)


def test_each_update_is_followed_by_a_step_of_its_own_rate():
    adapter = GroupLassoHeads([(0, 0), (0, 1)], scales=torch.tensor([[3.0, 4.0], [0.3, 0.4]]), lam=2.0)
    adapter.end_step(0.25)
    factor = 1 - 0.25 * 2 * 2**0.5 / 5
    torch.testing.assert_close(adapter.scales.detach(), torch.tensor([[3 * factor, 4 * factor], [0.0, 0.0]]))
    assert adapter.scales.requires_grad and not adapter.scales[1].any()
    torch.testing.assert_close(adapter.group_norm(), torch.tensor(2 * 2**0.5 * 5 * factor))


def test_without_a_weight_it_is_step_1_without_a_penalty(model, tokenizer):
    settings = {"epochs": 2, "batch_size": 2}
    scores = group_lasso.rank(make_subject(model, tokenizer), group_lasso.Settings(lam=0.0, **settings), None)
    scales = scale_norm.train_scales(make_subject(model, tokenizer), scale_norm.ScaleSettings(l1=0.0, **settings))
    np.testing.assert_allclose(scores, scales.scales.detach().norm(dim=1).view(2, 4), rtol=1e-5)


def test_a_larger_weight_leaves_fewer_heads_and_a_large_one_none(model, tokenizer):
    alive = []
    for lam in (0.0, 0.6, 5.0):
        subject = make_subject(model, tokenizer)
        scores = group_lasso.rank(subject, group_lasso.Settings(lam=lam, epochs=8, batch_size=1), None)
        alive.append(int(np.isfinite(scores).sum()))
        assert not (scores == 0).any()
        penalties = [row["penalty"] for row in subject.progress.history]
        assert (penalties[0] > 0) == (lam > 0)
    assert alive[0] == 8 and 0 < alive[1] < 8 and alive[2] == 0
    with pytest.raises(LofitError, match=r"^k: got 1; expected 1 to 0, the heads that are ranked$"):
        top_heads(scores, 1)


@pytest.mark.parametrize("ranking", ["offset_norm", "group_lasso", "gradient"])
def test_a_fit_takes_its_heads(model, tokenizer, ranking, tmp_path):
    records = [{"prompt": prompt, "completion": completion} for prompt, completion in ROWS]
    options = {} if ranking == "gradient" else {"ranking_settings": {"epochs": 2, "lr": 0.02}}
    adapters = [
        lofit.fit(model, tokenizer, records, k=2, ranking=ranking, epochs=1, checkpoint=folder, **options)
        for folder in (None, tmp_path, tmp_path)
    ]
    assert len(adapters[0].heads) == 2
    assert all(other.heads == adapters[0].heads for other in adapters[1:])
    assert all(torch.equal(other.offsets, adapters[0].offsets) for other in adapters[1:])
