"""A tiny random model for the benchmark, on one thread."""

import pytest
import torch

from benchmarks.measure import Setting
from benchmarks.shapes import SHAPES, random_model
from benchmarks.texts import read_texts
from lofit import head_layout

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread():
    """A tiny model gains nothing from more, and on a busy machine they wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def model():
    return random_model(SHAPES["tiny"], device=CPU, dtype=torch.float32)


@pytest.fixture(scope="session")
def texts():
    return read_texts(None, vocabulary=512)


@pytest.fixture(scope="session")
def setting(model, texts):
    return Setting(
        model, head_layout(model), SHAPES["tiny"], CPU, torch.float32, texts, questions=3, repeats=1, batches=2
    )
