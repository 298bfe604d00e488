"""Whatever stands in a file: preprocessing and training end well, or with one line that names the place."""

import csv
import json
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import lofit
from lofit.errors import LofitError
from lofit.tasks import preprocess, user_data
from lofit.tasks.prompts import Reader
from lofit.tasks.record import SPLITS, Options, Record, read_records

FIELDS = ("prompt", "completion", "aliases", "chosen", "rejected", "choices", "answer", "messages", "id", "other")
SHAPES = [
    {"prompt": "hot", "completion": "cold"},
    {"prompt": "hot", "chosen": "cold", "rejected": "no"},
    {"prompt": "hot", "choices": ["a", "b"], "answer": 1},
    {"messages": [{"role": "user", "content": "hot"}, {"role": "assistant", "content": "cold"}]},
]
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content | trim }}\n{% endfor %}"
ANYTHING = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)


@pytest.fixture(scope="module")
def chatting(make_tokenizer):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = TEMPLATE
    return tokenizer


# Half characters included, which JSON can write as escapes.
texts = st.text(st.characters(exclude_categories=()), max_size=8)
plain_texts = st.text(st.characters(codec="utf-8"), max_size=8)
numbers = st.integers() | st.floats() | st.booleans()
turns = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system", "bot"]), "content": texts})
cells = st.recursive(
    st.none() | numbers | texts | st.lists(turns, max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=6,
)
changes = st.dictionaries(st.sampled_from(FIELDS), cells, max_size=3)
tables = st.tuples(st.sampled_from(SHAPES), st.lists(changes, min_size=1, max_size=4))
options = st.fixed_dictionaries(
    {
        "template": st.sampled_from(["{prompt}", "Q: {prompt} {other}", "{messages.0.content}", "x"]),
        "chat": st.booleans(),
        "group": st.sampled_from([None, "id", "other"]),
        "overlong": st.sampled_from(["refuse", "drop", "cut_prompt"]),
        "val_ratio": st.just(0.3),
        "test_ratio": st.just(0.3),
    }
)


@ANYTHING
@given(table=tables, chosen=options, ending=st.sampled_from(["jsonl", "json"]))
def test_any_json_is_preprocessed_or_refused_in_one_line(chatting, table, chosen, ending):
    shape, changed = table
    rows = [{**shape, "id": number, **change} for number, change in enumerate([{}, *changed, {}])]
    lines = [json.dumps(row) for row in rows]
    content = "\n".join(lines) if ending == "jsonl" else f"[{', '.join(lines)}]"
    run_or_refuse(chatting, chosen, f"mine.{ending}", content.encode())


@ANYTHING
@given(content=st.binary(max_size=60) | texts.map(lambda text: text.encode("utf-8", "surrogatepass")))
@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "parquet", "jsonl.gz"])
def test_any_bytes_are_refused_in_one_line(chatting, ending, content):
    run_or_refuse(chatting, {"val_ratio": 0.3, "test_ratio": 0.3}, f"mine.{ending}", content)


@ANYTHING
@given(
    rows=st.lists(st.lists(plain_texts, min_size=1, max_size=3), min_size=1, max_size=5),
    delimiter=st.sampled_from(",;\t"),
)
def test_any_table_is_preprocessed_or_refused_in_one_line(chatting, rows, delimiter):
    text = StringIO()
    csv.writer(text, delimiter=delimiter).writerows([["prompt", "completion"], *rows])
    run_or_refuse(chatting, {"val_ratio": 0.3, "test_ratio": 0.3}, "mine.csv", text.getvalue().encode())


@ANYTHING
@given(
    columns=st.dictionaries(
        st.sampled_from(FIELDS),
        st.lists(st.none() | plain_texts, min_size=4, max_size=4)
        | st.lists(st.none() | st.floats(), min_size=4, max_size=4)
        | st.lists(st.none() | st.binary(max_size=3), min_size=4, max_size=4)
        | st.lists(st.none() | st.datetimes(), min_size=4, max_size=4)
        | st.lists(st.lists(plain_texts, max_size=2), min_size=4, max_size=4),
        min_size=1,
    )
)
def test_any_parquet_is_preprocessed_or_refused_in_one_line(chatting, columns):
    with TemporaryDirectory() as folder:
        parquet.write_table(pyarrow.table(columns), Path(folder, "a"))
        content = Path(folder, "a").read_bytes()
    run_or_refuse(chatting, {"val_ratio": 0.3, "test_ratio": 0.3}, "mine.parquet", content)


@ANYTHING
@given(
    pieces=st.lists(st.text(st.sampled_from("abcQ:? \n"), min_size=1, max_size=3), unique=True, max_size=12),
    special=st.fixed_dictionaries(
        {name: st.sampled_from([None, "<a>", "<b>"]) for name in ("bos_token", "eos_token", "pad_token")}
    ),
    known=st.sampled_from([8, 320]),
    opens=st.booleans(),
    config=st.sampled_from([None, 0, 5, [1, 2], 900]),
    row=st.sampled_from(SHAPES),
)
def test_any_tokenizer_is_trained_with_or_refused_in_one_line(make_model, pieces, special, known, opens, config, row):
    letters = sorted(set("abcdefghijklmnopqrstuvwxyz Q:?\n.!"))
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys([*letters, *pieces]))}
    built = Tokenizer(models.WordLevel(vocabulary, unk_token=" "))
    built.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    built.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=built, **{k: v for k, v in special.items() if v})
    tokenizer.chat_template = TEMPLATE
    if opens and tokenizer.bos_token:
        begins = [(tokenizer.bos_token, tokenizer.bos_token_id)]
        built.post_processor = processors.TemplateProcessing(single=f"{tokenizer.bos_token} $A", special_tokens=begins)
    model = make_model(vocab_size=known, eos_token_id=config)
    try:
        adapter = lofit.fit(model, tokenizer, [row], heads=[(1, 0)], epochs=1, lr=0.01)
        (score,) = lofit.score(model, tokenizer, [row], adapter=adapter, max_new_tokens=3).values()
    except LofitError as error:
        assert "\n" not in str(error) and str(error)
    else:
        assert 0 <= score <= 1


def run_or_refuse(tokenizer, chosen, name, content):
    """What a user's file becomes: records that can be read back, or one line that begins with its name or a key."""
    with TemporaryDirectory() as folder, redirect_stderr(StringIO()):
        file, raw, out = Path(folder, name), Path(folder, "raw"), Path(folder, "out")
        file.write_bytes(content)
        values = Options(**chosen)
        reader = Reader(tokenizer, values.chat_options, max_length=40, positions=64, new_tokens=4)
        try:
            where = {"revision": None, "subset": None, "splits": {}}
            user_data.fetch(str(file), raw, cache=Path(folder, "cache"), **where)
            preprocess("jsonl", raw, out, values, reader=lambda: reader)
        except LofitError as error:
            message = str(error)
            places = (str(file), *Options.model_fields, "example ")
            assert message.startswith(places) and "\n" not in message, message
            assert not out.exists()
        else:
            records = [record for split in SPLITS for record in read_records(out, split)]
            assert records and all(isinstance(record, Record) for record in records)
