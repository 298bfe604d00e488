"""Tiny models and tokenizers, made on the spot: no test downloads anything."""

import os

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Each worker has a core to itself. Before torch is imported, and for the processes that tests start, too.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 320
END = "</s>"
TEXT = [
    "Q: Imagine that the cat sat on the mat. Where did the cat sit? A: on the mat",
    "Q: Can pigs fly? A: No, pigs cannot fly",
    "Answer: Roy is Anna 's\nbrother. She met her brother and the dog.",
] * 3


def pytest_collection_modifyitems(items):
    # The longest files first, so that no worker starts one when the others have finished.
    items.sort(key=lambda item: "tests/pipeline/test_" not in item.nodeid)


@pytest.fixture(scope="session")
def make_model():
    """A frozen random Llama of 2 layers x 4 heads x 8 numbers; keywords change its config."""

    def make(seed=0, **changes):
        shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
        ids = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": 0}
        settings = {"vocab_size": VOCABULARY, "max_position_embeddings": 256, "initializer_range": 0.2}
        torch.manual_seed(seed)
        return LlamaForCausalLM(LlamaConfig(**{**shape, **ids, **settings, **changes})).eval().requires_grad_(False)

    return make


@pytest.fixture(scope="session")
def model(make_model):
    """One such model for all tests that leave it as it is."""
    return make_model()


@pytest.fixture(scope="session")
def make_tokenizer():
    """A byte-level BPE tokenizer; without `words`, its tokens may cross the borders of words."""

    def make(*, words=True, trim=False, end=END, closes=False):
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=[END],
            show_progress=False,
        )
        tokenizer.train_from_iterator(TEXT, trainer)
        offsets = processors.ByteLevel(trim_offsets=trim)
        closing = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, 0)])
        tokenizer.post_processor = processors.Sequence([offsets, closing]) if closes else offsets
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end)

    return make


@pytest.fixture(scope="session")
def tokenizer(make_tokenizer):
    return make_tokenizer()
