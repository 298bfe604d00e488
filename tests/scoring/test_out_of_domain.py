"""Scores on other tasks: those of a loop over questions, with an adapter of each kind, whatever the batches."""

import json

import numpy as np
import pytest
import torch
from question_files import write, write_question_files

from lofit import HeadAdapter
from lofit.adapters.answer_heads import AnswerHeadAdapter
from lofit.adapters.subspace import SubspaceAdapter
from lofit.errors import LofitError
from lofit.models.generation import generate
from lofit.models.tokens import Encoded
from lofit.scoring import harness
from lofit.scoring.harness_model import harness_model
from lofit.scoring.out_of_domain import ask, out_of_domain, together
from lofit.storage.question_scores import QuestionScores

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install -e '.[out-of-domain]'")

HEADS = [(0, 1), (1, 3)]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def subspace():
    basis = torch.linalg.qr(random(2, 1, 32, 3)).Q.mT.contiguous()
    return SubspaceAdapter([0, 1], basis, basis + random(*basis.shape, seed=1), random(2, 1, 3), first=2, last=1)


ADAPTERS = {
    "nothing": lambda: None,
    "heads": lambda: HeadAdapter(HEADS, 2 * random(2, 8)),
    "answer_heads": lambda: AnswerHeadAdapter(HEADS, 2 * random(2, 8)),
    "subspace": subspace,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_question_files(tmp_path_factory.mktemp("questions"))


@pytest.fixture(scope="module")
def large(make_model):
    """lm-eval leaves room for 256 tokens of an answer."""
    return make_model(max_position_embeddings=1024)


@pytest.fixture(params=ADAPTERS)
def adapter(request):
    return ADAPTERS[request.param]()


def logprob(model, adapter, context, answer):
    """Log-probability of an answer, token by token, of one row that is read alone and whole."""
    row = Encoded((*context, *answer), len(context))
    ids = torch.tensor([row.ids])
    with torch.no_grad():
        if adapter is None:
            logits = model(ids).logits
        else:
            with adapter.attach(model), adapter.reading([row], len(row.ids)):
                logits = model(ids).logits
    total = 0.0
    for place in range(row.start, len(row.ids)):
        total += float(logits[0, place - 1].log_softmax(-1)[row.ids[place]])
    return total


@pytest.mark.parametrize("batch_size", [1, 4])
def test_likelihoods_are_those_of_a_loop(large, tokenizer, folder, adapter, batch_size):
    names = ["mmlu_val_local", "arc_challenge_local"]
    loaded = harness.load(names, files=folder)
    reached = ask(large, tokenizer, loaded, adapter=adapter, batch_size=batch_size)
    for name in names:
        task = loaded.tasks[name]
        right = []
        for doc in task.eval_docs:
            asked = [request for request in task.instances if request.doc == doc]
            likely = []
            for request in asked:
                prompt, answer = request.args
                # lm-eval reads a prompt with its answer, and cuts it where the prompt alone would end.
                whole, start = tokenizer(prompt + answer)["input_ids"], len(tokenizer(prompt)["input_ids"])
                likely.append(logprob(large, adapter, whole[:start], whole[start:]))
                assert request.resps[0][0] == pytest.approx(likely[-1], abs=1e-4)
            right.append(likely.index(max(likely)) == task.doc_to_target(doc))
        assert reached[name].scores["acc"].tolist() == [float(one) for one in right]
        assert reached[name].questions == tuple(map(str, range(len(task.eval_docs))))


def test_whether_an_answer_is_what_the_model_says_is_told_alike(large, tokenizer):
    adapter = AnswerHeadAdapter(HEADS, torch.zeros(2, 8))
    requests = [(("", ""), [5, 6, 7], [8]), (("", ""), [9, 10], [11, 12])]
    for context, answer in ([5, 6, 7], 1), ([9, 10], 2):
        ids = torch.tensor([context])
        said = large.generate(ids, max_new_tokens=answer, do_sample=False, pad_token_id=0)[0, len(context) :].tolist()
        requests.append((("", ""), context, said))
    plain = harness_model(large, tokenizer, batch_size=3)._loglikelihood_tokens(requests, disable_tqdm=True)
    with adapter.attach(large):
        told = harness_model(large, tokenizer, batch_size=3, reading=adapter.reader)._loglikelihood_tokens(requests)
    assert [greedy for _, greedy in plain] == [greedy for _, greedy in told] == [False, False, True, True]
    assert [score for score, _ in plain] == pytest.approx([score for score, _ in told], abs=1e-4)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_what_is_generated_is_what_lofit_generates(large, tokenizer, folder, adapter, batch_size):
    loaded = harness.load(["nq_open_local"], files=folder)
    task = loaded.tasks["nq_open_local"]
    task.config.generation_kwargs["max_gen_toks"] = 12
    ask(large, tokenizer, loaded, adapter=adapter, batch_size=batch_size)
    prompts = [request.args[0] for request in task.instances]

    texts = plain = generate(large, tokenizer, prompts, batch_size=2, max_new_tokens=12)
    if adapter is not None:
        with adapter.attach(large):
            texts = generate(large, tokenizer, prompts, batch_size=2, max_new_tokens=12, reading=adapter.reader)
        assert all(text != other for text, other in zip(texts, plain, strict=True))
    for request, text in zip(task.instances, texts, strict=True):
        for stop in ("\n", ".", ","):
            text = text.partition(stop)[0]
        assert request.resps == [text]


def test_a_score_says_which_question_and_a_second_time_the_same(large, tokenizer, folder):
    first, again = (
        out_of_domain(large, tokenizer, ["mmlu_val_local", "svamp_local"], limit=2, files=folder) for _ in range(2)
    )
    assert first["mmlu_val_local"].questions == ("0", "2") and first["svamp_local"].questions == ("0", "1")
    for name, reached in first.items():
        assert again[name].questions == reached.questions
        assert {metric: list(values) for metric, values in again[name].scores.items()} == {
            metric: list(values) for metric, values in reached.scores.items()
        }


def test_an_answer_that_the_model_gives_counts_as_right(large, tokenizer, tmp_path):
    """What the model says is made the right answer; another answer is wrong."""
    (text,) = generate(large, tokenizer, ["Q: who?\nA:"], batch_size=1, max_new_tokens=8)
    write(tmp_path / "mine.jsonl", "".join(json.dumps({"q": "who?", "a": answer}) + "\n" for answer in (text, "x")))
    page = {
        "task": "mine",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "mine.jsonl")}, "cache_dir": str(tmp_path / "cache")},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "Q: {{q}}\nA:",
        "doc_to_target": "{{a}}",
        "generation_kwargs": {"until": ["no such text"], "max_gen_toks": 8, "do_sample": False},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    write(tmp_path / "tasks/mine.yaml", json.dumps(page))
    write(tmp_path / "tasks/twin.yaml", json.dumps({**page, "task": "twin"}))
    write(tmp_path / "tasks/both.yaml", json.dumps({"group": "both", "task": ["mine", "twin"]}))
    reached = out_of_domain(large, tokenizer, ["mine", "both"], folder=tmp_path / "tasks")
    assert reached["mine"].scores["exact_match"].tolist() == [1.0, 0.0]
    assert reached["both"].questions == ("mine:0", "mine:1", "twin:0", "twin:1")
    assert reached["both"].scores["exact_match"].tolist() == [1.0, 0.0, 1.0, 0.0]


def test_the_model_and_its_tokenizer_are_left_as_they_were(large, make_tokenizer, folder):
    tokenizer = make_tokenizer(end=None)
    before = dict(tokenizer.special_tokens_map), len(tokenizer), large.config.to_dict(), torch.get_rng_state()
    hooks = len(large._forward_hooks)
    out_of_domain(large, tokenizer, ["svamp_local"], adapter=ADAPTERS["subspace"](), files=folder)
    assert (dict(tokenizer.special_tokens_map), len(tokenizer), large.config.to_dict()) == before[:3]
    assert torch.equal(torch.get_rng_state(), before[3]) and len(large._forward_hooks) == hooks


def test_a_model_that_gives_nan_is_refused(make_model, tokenizer, folder):
    broken = make_model(max_position_embeddings=1024)
    broken.lm_head.weight[5] = float("nan")
    for name in ("boolq_closed_book_local", "nq_open_local"):
        with pytest.raises(LofitError, match="NaN"):
            out_of_domain(broken, tokenizer, [name], files=folder)


def test_arguments_that_nothing_can_be_made_of_are_told(large, tokenizer, folder):
    for name, value in (("limit", 0), ("batch_size", 1.5)):
        with pytest.raises(LofitError, match=f"^{name}: got {value}; expected a whole number from 1$"):
            out_of_domain(large, tokenizer, ["svamp_local"], files=folder, **{name: value})


def test_texts_that_are_cut_are_told(make_model, tokenizer, folder, capsys):
    out_of_domain(make_model(max_position_embeddings=48), tokenizer, ["mmlu_val_local"], files=folder)
    assert "20 of 20 texts are longer than the model's 48 positions" in capsys.readouterr().out


def test_a_group_has_the_metrics_that_its_tasks_share():
    one = QuestionScores(("0",), {"acc": np.array([1.0]), "acc_norm": np.array([0.0])})
    other = QuestionScores(("0", "3"), {"acc": np.array([0.0, 1.0])})
    both = together("both", [("one", one), ("other", other)])
    assert both.questions == ("one:0", "other:0", "other:3") and list(both.scores) == ["acc"]
    assert together("one", [("one", one)]) is one
    with pytest.raises(LofitError, match="task both: its tasks share no metric"):
        together("both", [("one", one), ("other", QuestionScores(("0",), {"exact_match": np.array([0.0])}))])
