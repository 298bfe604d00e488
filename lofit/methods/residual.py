"""A trained vector in the residual stream: the control that has as many numbers as LoFiT, and chooses no heads.

At the output of a layer l, at every token position,

    h_l <- h_l + v_l        v_l ~ N(0, 0.001) at first, as LoFiT's

The model is frozen and v_l is all that is trained, by the task's loss. For Llama 2 7B one vector is 4,096 numbers, what
LoFiT trains with 3 % of the heads; so this row says what heads are worth against one place in the stream.

It is no published row. BiPO (Cao et al., NeurIPS 2024, arXiv 2406.00045) trains one vector at one layer, by a
preference loss that meets the vector with both signs; here the loss is that of every other row. Its learning rate is
5e-4, for models of 7 billion parameters; the default here is for models as small as the demo's.
"""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from lofit.errors import LofitError
from lofit.models.layout import Head, HeadLayout, hidden_size
from lofit.settings import Positive
from lofit.training.settings import TrainingSettings

if TYPE_CHECKING:
    # Whoever reads the settings alone should not wait for torch to load.
    from lofit.adapters.stream import StreamAdapter
    from lofit.training.subject import Subject

RANKING = None

Layer = Annotated[int, Field(ge=0)]


class Settings(TrainingSettings):
    lr: Positive = 0.01

    layers: Annotated[list[Layer], Field(min_length=1)] | None = None
    """Layers whose outputs get a vector each, counted from 0 among those with heads. Null: the middle one alone."""


def fit(subject: "Subject", settings: Settings, heads: list[Head]) -> "StreamAdapter":
    """Train an offset of the residual stream for each of the layers.

    Raises:
        LofitError: the model has no such layer, or one is named twice.
    """
    from lofit.adapters.stream import StreamAdapter
    from lofit.training.initial import fresh_vectors

    layers = chosen_layers(settings, subject.layout)
    adapter = StreamAdapter(layers, fresh_vectors(len(layers), hidden_size(subject.model), seed=subject.seed))
    subject.train(adapter, settings)
    return adapter


def chosen_layers(settings: Settings, layout: HeadLayout) -> list[int]:
    """The layers of the settings, lowest first; the middle one where they name none."""
    count = layout.num_layers
    layers = [count // 2] if settings.layers is None else sorted(settings.layers)
    if layers[-1] >= count:
        raise LofitError(f"layers: got {layers[-1]}; expected 0 to {count - 1}, the layers of the model")
    return layers
