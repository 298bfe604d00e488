"""WeightsAdapter: all weights of a model, in place of its own."""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Literal, Self, TypeVar
from weakref import WeakSet

import torch
from torch import Tensor, nn

from lofit.adapters.attachment import forget_compiled_code
from lofit.adapters.base import Adapter
from lofit.adapters.folder import Shape
from lofit.adapters.named import hold
from lofit.adapters.provenance import Provenance
from lofit.errors import LofitError
from lofit.models.layout import HeadLayout

AnyModel = TypeVar("AnyModel", bound=nn.Module)

REPLACED: WeakSet[nn.Module] = WeakSet()
"""Models whose weights are those of an adapter just now."""


class WeightsShape(Shape):
    """The content of config.json."""

    kind: Literal["weights"] = "weights"


class WeightsAdapter(Adapter):
    """Weights for every parameter of a model, by the model's own names; one that is tied comes once.

    Args:
        weights: float32, by name.
        provenance: where they come from.

    Raises:
        LofitError: one is not float32.
    """

    kind = "weights"
    site = "all weights"
    Shape = WeightsShape

    def __init__(self, weights: Mapping[str, Tensor], *, provenance: Provenance | None = None) -> None:
        super().__init__()
        self.provenance = provenance or Provenance()
        self.weights = nn.Module()
        for name, weight in weights.items():
            if weight.dtype != torch.float32:
                raise LofitError(f"{name}: got {weight.dtype}; expected {torch.float32}")
            hold(self.weights, name, weight.detach().clone())

    @classmethod
    def fresh(cls, model: nn.Module) -> Self:
        """Copies of the weights of `model`.

        Raises:
            LofitError: the model is quantised, offloaded or in 16 bits.
        """
        refuse_other_than_float32(model)
        return cls(dict(model.named_parameters()))

    def attach(self, model: nn.Module, layout: HeadLayout | None = None) -> "WeightsAttachment":
        """Give `model` these weights until `detach()` or the end of the block; its own are then back, uncopied.

        Raises:
            LofitError: they are not those of this model, or another adapter has replaced its weights.
        """
        # torch.compile wraps a model, and the weights are for what is inside.
        model = getattr(model, "_orig_mod", model)
        if layout is not None:
            self.provenance.check_fits(layout)
        if model in REPLACED:
            raise LofitError("model: got one whose weights another adapter has replaced; expected it to be detached")
        return WeightsAttachment(model, self.fitting(model))

    def written_into(self, model: AnyModel) -> AnyModel:
        """`model`, changed in place: these weights are copied over its own.

        Raises:
            LofitError: as `attach` does.
        """
        places = {id(weight): weight for weight in model.parameters()}
        with torch.no_grad():
            for place, weight in self.fitting(model).items():
                places[place].copy_(weight)
        return model

    def fitting(self, model: nn.Module) -> dict[int, nn.Parameter]:
        """These weights by the `id` of those that they stand in for.

        Raises:
            LofitError: the names, the shapes or the dtype are not those of the model.
        """
        refuse_other_than_float32(model)
        own, old = dict(self.weights.named_parameters()), dict(model.named_parameters())
        if own.keys() != old.keys():
            odd = min(own.keys() ^ old.keys())
            met = "a weight of the adapter alone" if odd in own else "a weight of the model alone"
            raise LofitError(f"{odd}: got {met}; expected the model that the adapter was made for")
        for name, weight in own.items():
            if weight.shape != old[name].shape:
                raise LofitError(
                    f"{name}: got shape {tuple(weight.shape)}; expected the model's {tuple(old[name].shape)}"
                )
        return {id(old[name]): weight for name, weight in own.items()}

    @property
    def is_idle(self) -> bool:
        """Weights alone do not say what they were before."""
        return False

    @property
    def served_as(self) -> str | None:
        return "checkpoint"

    def facts(self) -> dict[str, Any]:
        return {}

    def tensors(self) -> dict[str, Tensor]:
        return {name: weight.detach() for name, weight in self.weights.named_parameters()}

    @classmethod
    def from_parts(cls, shape: WeightsShape, tensors: dict[str, Tensor]) -> Self:
        return cls(tensors)

    def summary(self) -> str:
        numbers = sum(weight.numel() for weight in self.parameters())
        return f"All {numbers:,} weights of a fine-tuned model, in place of those of its base."

    def usage(self) -> str:
        return "`lofit.merge(model, adapter)` gives the model with these weights, for `save_pretrained`.\n"

    def limits(self) -> str:
        return "- It is for the base model and revision named above only, in float32."


class WeightsAttachment:
    """Other weights in a model. A context manager; `detach()` may be called more than once."""

    def __init__(self, model: nn.Module, weights: Mapping[int, nn.Parameter]) -> None:
        self._model = model
        # Tied weights have several places.
        self._places = [
            (module, key, weight)
            for module in model.modules()
            for key, weight in module._parameters.items()
            if weight is not None
        ]
        for module, key, weight in self._places:
            module._parameters[key] = weights[id(weight)]
        REPLACED.add(model)
        forget_compiled_code()

    def detach(self) -> None:
        if not self._places:
            return
        for module, key, weight in self._places:
            module._parameters[key] = weight
        self._places = []
        REPLACED.discard(self._model)
        forget_compiled_code()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.detach()


def refuse_other_than_float32(model: nn.Module) -> None:
    """A LofitError where a weight is quantised, offloaded or in 16 bits, in which the last steps would round away."""
    if getattr(model, "hf_quantizer", None) is not None:
        raise LofitError("model: got quantised weights; expected a float32 model, as its weights themselves change")
    for name, weight in model.named_parameters():
        if weight.is_meta:
            raise LofitError(f"{name}: its weight is offloaded; expected a model that is wholly in memory")
        if weight.dtype != torch.float32:
            raise LofitError(f"{name}: got {weight.dtype}; expected a float32 model, as its weights themselves change")


ADAPTER = WeightsAdapter
