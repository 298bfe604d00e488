"""Special tokens, vocabulary and positions: what tokenizer and configs state, brought together."""

import pytest
import torch
from transformers import BloomConfig, BloomForCausalLM, GPT2Config, GPT2LMHeadModel

import lofit
from lofit.errors import LofitError
from lofit.models.generation import generate
from lofit.models.vocabulary import vocabulary_of
from lofit.scoring.predict import predict
from lofit.tasks.record import Metric, Objective, Record
from lofit.training.examples import encode_record

PROMPTS = ["Q: Can", "Q: Can pigs fly"]
RECORD = Record("1", "Q: Can pigs fly? A:", " No")


def test_the_tokenizers_word_comes_first_and_every_end_counts_once(make_model, tokenizer):
    model = make_model(eos_token_id=[5, 0], pad_token_id=7, bos_token_id=3)
    model.generation_config.eos_token_id = [9, 5]
    found = vocabulary_of(model, tokenizer)
    assert found.ends == (0, 9, 5) and found.end == 0
    assert (found.padding, found.begin, found.size, found.positions) == (7, 3, 320, 256)


@pytest.mark.parametrize(("own", "pad"), [(4, 4), (None, 0)])
def test_a_token_without_an_embedding_counts_as_none(make_model, make_tokenizer, own, pad):
    """A padding token that was added to the tokenizer, while the embeddings were left as they are."""
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]", "eos_token": "[END]"})
    model = make_model(pad_token_id=own)
    assert tokenizer.pad_token_id >= 320 <= tokenizer.eos_token_id
    found = vocabulary_of(model, tokenizer)
    assert (found.padding, found.ends) == (pad, (0,))
    texts = generate(model, tokenizer, PROMPTS, batch_size=2, max_new_tokens=4)
    assert texts == [
        generate(model, tokenizer, [p], batch_size=1, max_new_tokens=4)[0] for p in ("Q: Can", "Q: Can pigs fly")
    ]


def test_the_config_names_the_end_where_the_tokenizer_does_not(make_model, make_tokenizer):
    tokenizer, model = make_tokenizer(end=None), make_model(eos_token_id=6)
    chosen, _ = encode_record(tokenizer, RECORD, Objective("cross_entropy"), vocabulary_of(model, tokenizer))
    assert chosen.ids[-1] == 6
    nowhere = vocabulary_of(make_model(eos_token_id=None), tokenizer)
    with pytest.raises(LofitError, match=r"^model: no end-of-sequence token below 320, the rows of its embedding"):
        encode_record(tokenizer, RECORD, Objective("cross_entropy"), nowhere)


@pytest.mark.parametrize("config_end", [0, 17, None, [3, 17]])
def test_the_same_weights_score_the_same_whatever_end_their_config_names(make_model, tokenizer, config_end):
    """Tuned to write " No" and the tokenizer's end token, a model must be stopped there."""
    model, record = make_model(eos_token_id=config_end), Record("1", "Q: Can pigs fly? A:", " No")
    adapter = lofit.fit(model, tokenizer, [record], k=8, lr=0.1, epochs=150, scale_settings={"lr": 0.01, "epochs": 1})
    metric = Metric("exact_match", stops=())
    with adapter.attach(model):
        (made,) = predict(model, tokenizer, [record], metric, batch_size=1, max_new_tokens=12)
    assert made.evidence["generated"] == " No" and made.scores == {"exact_match": 1.0}


def test_a_text_ends_before_any_end_token_even_where_decoding_would_show_it(make_model, tokenizer):
    model = make_model()
    ids = tokenizer("Q: Can pigs fly?")["input_ids"]
    written = []
    for _ in range(3):
        ids.append(model(torch.tensor([ids])).logits[0, -1].argmax().item())
        written.append(ids[-1])
    assert len(set(written)) == 3
    model.generation_config.eos_token_id = written[2]
    (text,) = generate(model, tokenizer, ["Q: Can pigs fly?"], batch_size=1, max_new_tokens=8)
    assert text == tokenizer.decode(written[:2])


@pytest.mark.parametrize(
    ("changes", "positions"),
    [
        ({}, 256),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, 256),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, None),
    ],
)
def test_a_model_that_stretches_itself_states_no_positions(make_model, tokenizer, changes, positions):
    assert vocabulary_of(make_model(**changes), tokenizer).positions == positions


def test_a_model_without_positions_states_none(tokenizer):
    model = BloomForCausalLM(BloomConfig(vocab_size=320, hidden_size=32, n_layer=1, n_head=4))
    assert vocabulary_of(model, tokenizer).positions is None


def test_what_a_model_has_no_positions_for_is_one_line_before_it_runs(tokenizer):
    model = GPT2LMHeadModel(GPT2Config(vocab_size=320, n_positions=16, n_embd=32, n_layer=2, n_head=4, eos_token_id=0))
    long = "Q: Can pigs fly? " * 5 + "A:"
    length = len(tokenizer(long)["input_ids"])
    words = (
        rf"^prompt 'Q: Can pigs fly\?.*'\.\.\.: {length}.* tokens.*; expected at most 16, the positions of the model$"
    )
    for act in (
        lambda: generate(model, tokenizer, [long], batch_size=1, max_new_tokens=1),
        lambda: lofit.score(model, tokenizer, [{"prompt": long, "completion": "no"}]),
    ):
        with pytest.raises(LofitError, match=words):
            act()
    for row in (
        {"prompt": long, "completion": "no"},
        {"prompt": long, "chosen": "no", "rejected": "yes"},
        {"prompt": long, "choices": ["no", "yes"], "answer": 0},
    ):
        with pytest.raises(LofitError, match="expected at most 16, the positions of the model"):
            lofit.fit(model, tokenizer, [row], k=1)
    with pytest.raises(LofitError, match=r"5 tokens, and 12 to be generated; expected at most 16"):
        generate(
            model, tokenizer, [tokenizer.decode(tokenizer(long)["input_ids"][:5])], batch_size=1, max_new_tokens=12
        )


def test_a_tokenizer_of_another_model_is_one_line(make_model, tokenizer):
    model = make_model(vocab_size=64)
    for act in (
        lambda: lofit.score(model, tokenizer, [{"prompt": "Q: fly", "completion": "no"}]),
        lambda: lofit.score(model, tokenizer, [{"prompt": "Q: fly", "choices": ["no", "yes"], "answer": 0}]),
        lambda: lofit.fit(model, tokenizer, [{"prompt": "Q: fly", "completion": "no"}], k=1),
    ):
        with pytest.raises(LofitError, match=r"token \d+; expected below 64, the rows of the model's embedding"):
            act()


@pytest.mark.parametrize("row", [{"completion": "no"}, {"choices": ["no", "yes"], "answer": 0}])
def test_a_model_that_gives_no_numbers_is_no_answer(make_model, tokenizer, row):
    model = make_model()
    model.lm_head.weight[7] = float("nan")
    with pytest.raises(LofitError, match=r"^model: got NaN for its logits; expected a dtype with more range"):
        lofit.score(model, tokenizer, [{"prompt": "Q:", **row}])


def test_what_is_no_model_or_no_tokenizer_is_one_line(model, tokenizer):
    rows = [{"prompt": "Q:", "completion": "no"}]
    for act in (lofit.fit, lofit.score, lofit.train_scales):
        with pytest.raises(LofitError, match=r"^model: got a PreTrainedTokenizerFast|^model: got a TokenizersBackend"):
            act(tokenizer, model, rows)
        with pytest.raises(LofitError, match=r"^tokenizer: got a NoneType; expected a tokenizer of transformers"):
            act(model, None, rows)
    with pytest.raises(LofitError, match=r"^metric: got 'exact_match'; expected an instance of Metric$"):
        lofit.score(model, tokenizer, rows, metric="exact_match")
    with pytest.raises(LofitError, match=r"^adapter: got 'folder'; expected an instance of Adapter$"):
        lofit.score(model, tokenizer, rows, adapter="folder")
