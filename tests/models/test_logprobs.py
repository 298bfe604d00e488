"""Log-probabilities with shared prefixes, against one whole pass for every answer."""

import random

import pytest
import torch

from lofit import HeadAdapter
from lofit.models.logprobs import score_completions, score_groups, shared_length
from lofit.models.tokens import Encoded, encode
from tests.families import FAMILIES, HYBRID, VOCABULARY, build

PRIMER = "Q: Can pigs fly? A: No, pigs cannot fly\n\n"
QUESTIONS = {
    "Q: Where did the cat sit? A:": (" on the mat", " on", " on the mat and the dog", " no"),
    "Q: Who is Anna? A:": (" her brother",),
    "Q: Can cats fly? A:": (" no", " No, cats cannot fly", "n"),
    "Q: Where did the dog sit? A:": (" on the mat", " on the mat", " pigs"),
}


@pytest.fixture(scope="module", params=["words", "tokens across words"])
def groups(request, make_tokenizer):
    """Answers that begin like others, equal others, or have one token; with a tokenizer that merges across borders,
    where the last token of the prompt depends on the answer."""
    tokenizer = make_tokenizer(words=request.param == "words")
    groups = [
        [encode(tokenizer, PRIMER + question, answer) for answer in answers] for question, answers in QUESTIONS.items()
    ]
    assert any(len({row.start for row in group}) > 1 for group in groups) == (request.param != "words")
    return groups


def by_hand(model, row):
    """One pass over the whole row, all logits."""
    with torch.no_grad():
        logprobs = model(torch.tensor([row.ids]), use_cache=False).logits[0].double().log_softmax(-1)
    return sum(logprobs[at - 1, row.ids[at]].item() for at in range(max(row.start, 1), len(row.ids)))


def near(model, groups):
    return [pytest.approx([by_hand(model, row) for row in group], abs=1e-4) for group in groups]


@pytest.mark.parametrize("batch_size", [1, 2, 4, 100])
def test_shared_prefixes_give_the_scores_of_one_pass_for_each_answer(model, groups, batch_size):
    assert score_groups(model, groups, pad_id=7, batch_size=batch_size) == near(model, groups)


def test_an_edited_model_is_scored_with_its_edit_in_the_prefix_too(model, groups):
    plain = score_groups(model, groups, pad_id=0, batch_size=4)
    with HeadAdapter([(0, 1), (1, 3)], 3 * torch.ones(2, 8)).attach(model):
        edited = score_groups(model, groups, pad_id=0, batch_size=4)
        assert edited == near(model, groups)
    assert abs(edited[0][0] - plain[0][0]) > 0.1


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_scores_alike_and_only_hybrids_read_whole_prompts(name, capsys):
    draw = random.Random(name)

    def tokens(count):
        return tuple(draw.randrange(3, VOCABULARY) for _ in range(count))

    model, primer, groups = build(name, torch.float32), tokens(6), []
    for answers, length in ((3, 4), (1, 3), (4, 4), (2, 2)):
        stem = primer + tokens(length)
        groups.append([Encoded(stem + tokens(1 + i), len(stem)) for i in range(answers)])
    assert score_groups(model, groups, pad_id=0, batch_size=5) == near(model, groups)
    assert ("keeps more than keys and values" in capsys.readouterr().out) == (name in HYBRID)


def test_every_token_in_common_is_read_once(model, groups):
    seen = []
    with model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["attention_mask"][:, -kwargs["input_ids"].shape[1] :].sum().item()),
        with_kwargs=True,
    ):
        score_groups(model, groups, pad_id=0, batch_size=100)
    trunk = shared_length([row for group in groups for row in group])
    stems = [shared_length(group) if len(group) > 1 else trunk for group in groups]
    assert trunk > 10 and min(stems[0], stems[2]) > trunk + 3
    rests = [len(row.ids) - stem for group, stem in zip(groups, stems, strict=True) for row in group]
    every = trunk + sum(stem - trunk for stem in stems) + sum(rests)
    # The last token of a batch's longest rows predicts nothing that counts, and is not read at all.
    assert every - len(rests) <= sum(seen) < every
    assert sum(seen) < sum(len(row.ids) for group in groups for row in group) / 2


@pytest.mark.parametrize("batch_size", [1, 3])
def test_no_more_rows_than_asked_for_go_through_the_model_at_once(model, groups, batch_size):
    seen = []
    with model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(len(kwargs["input_ids"])), with_kwargs=True
    ):
        score_groups(model, groups, pad_id=0, batch_size=batch_size)
    assert max(seen) == batch_size


def test_rows_without_anything_in_common_are_scored_too(model):
    groups = [[Encoded((5, 6, 7), 1), Encoded((8, 9), 1)], [Encoded((9, 4, 4, 5), 2)], [Encoded((3, 4), 0)]]
    assert score_groups(model, groups, pad_id=0, batch_size=2) == near(model, groups)
    assert score_groups(model, [], pad_id=0, batch_size=2) == []


def test_half_precision_agrees_to_its_own_precision(make_model, groups):
    model = make_model().to(torch.bfloat16)
    rows = [row for group in groups for row in group]
    plain = score_completions(model, rows, pad_id=0, batch_size=1)
    shared = [score for group in score_groups(model, groups, pad_id=0, batch_size=4) for score in group]
    assert shared == pytest.approx(plain, abs=0.2)


@pytest.mark.parametrize(
    ("rows", "length"),
    [
        ([((1, 2, 3, 4), 3), ((1, 2, 3, 5), 3)], 2),
        ([((1, 2, 3, 4), 3), ((1, 2, 3, 4, 5), 3)], 2),
        ([((1, 2, 9, 4), 3), ((1, 7, 3, 5), 3), ((1, 2, 9, 5), 3)], 1),
        # A token that holds the end of the prompt and the beginning of the answer.
        ([((1, 2, 3, 4), 3), ((1, 2, 8), 2)], 1),
        ([((1, 2), 0), ((1, 2), 1)], 0),
        ([], 0),
    ],
)
def test_the_common_beginning_leaves_the_token_that_predicts_the_answer(rows, length):
    assert shared_length([Encoded(*row) for row in rows]) == length
