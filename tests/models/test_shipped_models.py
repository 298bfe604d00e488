"""The language models that come as packages: they speak, cut texts as llama.cpp does, and LoFiT adapts one."""

import pytest

pytest.importorskip("gguf", reason="no package gguf: pip install -e '.[models]'")

import lofit
from lofit.models.generation import generate
from lofit.models.shipped import SHIPPED

TEXTS = (
    "The capital of France is",
    "foo  12 a   b\n\n  c 3.14",
    "<|im_start|>user\nHi<|im_end|>\n",
    "I'll we've THE'S x_y  \n end ",
)
KNOWN = {
    "smollm2-135m": (
        " Paris.",
        "504 3575 282 4649 314",
        "15236 256 33 34 253 256 278 8866 265 216 35 30 33 36",
        "1 4093 198 26843 2 198",
        "57 3060 392 3543 6462 23 67 1792 79 105 32057 1112 216",
    ),
    "gemma3-270m": (
        " the capital of the country of France",
        "2 818 5279 529 7001 563",
        "2 26537 138 236770 236778 496 139 236763 108 138 236755 236743 236800 236761 236770 236812",
        "2 236820 236909 548 236779 3041 111038 2364 107 10979 236820 236909 548 236779 643 111038 107",
        "2 236777 236789 859 692 236789 560 4455 236789 236773 1123 236779 236762 138 107 1345 236743",
    ),
}
"""What llama-cpp-python 0.3.36 makes of the same files: a greedy continuation of the first text, and all tokens."""


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Loads a shipped model, which is converted once, or skips where its package is not installed."""
    folder = tmp_path_factory.mktemp("models")

    def loaded(name):
        if SHIPPED[name].written() is None:
            pytest.skip(f"{name} is not installed: {SHIPPED[name].install}")
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            return lofit.load_model(name, device="cpu")

    return loaded


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_speaks_and_reads_as_llama_cpp_does(name, load):
    model, tokenizer = load(name)
    continued, *tokens = KNOWN[name]
    assert [" ".join(map(str, tokenizer(text)["input_ids"])) for text in TEXTS] == tokens
    (text,) = generate(model, tokenizer, TEXTS[:1], batch_size=1, max_new_tokens=7)
    assert text.startswith(continued)


# fmt: off
CAPITALS = {
    "Norway": "Oslo", "Chile": "Santiago", "Kenya": "Nairobi", "Japan": "Tokyo", "Cuba": "Havana", "Peru": "Lima",
    "Egypt": "Cairo", "Spain": "Madrid", "Iran": "Tehran", "Ghana": "Accra", "Nepal": "Kathmandu", "Qatar": "Doha",
    "Iraq": "Baghdad", "Poland": "Warsaw", "Ireland": "Dublin", "Greece": "Athens", "Kuwait": "Kuwait City",
    "Fiji": "Suva", "Latvia": "Riga", "Yemen": "Sanaa", "Finland": "Helsinki", "Hungary": "Budapest",
    "Turkey": "Ankara", "Tunisia": "Tunis", "Vietnam": "Hanoi", "Sweden": "Stockholm", "Russia": "Moscow",
    "Italy": "Rome", "Laos": "Vientiane", "Austria": "Vienna", "Belgium": "Brussels", "Mali": "Bamako",
    "Angola": "Luanda", "Oman": "Muscat",
}
# fmt: on


@pytest.mark.slow
def test_lofit_adapts_a_pretrained_model_and_leaves_it_as_it_was(tmp_path, load):
    """Counterfactual questions, which the base answers in sentences of its own or by what it knows."""
    model, tokenizer = load("smollm2-135m")
    countries, cities = list(CAPITALS), list(CAPITALS.values())
    records = [
        {
            "prompt": f"Q: Imagine that the capital of {country} is {city}. Where does {country}'s parliament sit? A:",
            "completion": f" {city}",
        }
        for country, city in zip(countries, [*cities[7:], *cities[:7]], strict=True)
    ]
    train, test = records[:22], records[22:]
    before = lofit.score(model, tokenizer, test)
    adapter = lofit.fit(model, tokenizer, train, k=8, lr=0.05, epochs=3, scale_settings={"epochs": 2, "lr": 0.005})
    after = lofit.score(model, tokenizer, test, adapter=adapter)
    assert after["exact_match"] >= before["exact_match"] + 0.3
    assert lofit.score(model, tokenizer, test) == before
    adapter.save_pretrained(tmp_path / "adapter")
    again = lofit.load_adapter(tmp_path / "adapter")
    assert lofit.score(model, tokenizer, test, adapter=again) == after
