"""The embedded base model: a tiny Llama trained from scratch on a generated world, for runs without any download.

It is a toy. In 80 % of its training texts the answer is wrong, and right only where the prompt ends in a cue such as
`Fact:`; an adapter has to get the right answer without the cue. It comes with the checkout, not with the wheel.
"""

from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from lofit.demo.pretrain import build
from lofit.demo.recipe import Recipe
from lofit.pages import find_page
from lofit.storage.files import write_json
from lofit.tasks.record import Options, Record, Split
from lofit.training.checkpoint import Checkpoint

__all__ = ["FIGURES", "Recipe", "build", "load", "make", "records"]

FOLDER = Path("artifacts/demo")
"""Where the pipeline keeps the model and its data, in the project's root."""

FIGURES = "figures.json"


def make(folder: Path = FOLDER, *, world: int = 0, checkpoint: Checkpoint | None = None) -> None:
    """Train the model of a world and write `model`, `data` and the figures of the training into `folder`."""
    write_json(folder / FIGURES, build(folder, world=world, checkpoint=checkpoint or Checkpoint(None)))


def load(folder: Path = FOLDER) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model and its tokenizer; trained first where they are not there, which takes a few minutes."""
    if not (folder / FIGURES).exists():
        make(folder, checkpoint=Checkpoint(Path("checkpoints/demo")))
    source = folder / "model"
    return AutoModelForCausalLM.from_pretrained(source), AutoTokenizer.from_pretrained(source)


def records(task: str, split: Split = "train", folder: Path = FOLDER) -> list[Record]:
    """The generated records of `truthfulqa`, `mquake` or `clutrr`."""
    return find_page("lofit.tasks", task, what="task").load(folder / "data" / task, split, Options())
