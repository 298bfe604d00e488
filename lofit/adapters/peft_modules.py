"""PEFT's modules for a model: made by PEFT, taken out of the model again at once, and put in place when wanted."""

import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lofit.adapters.peft_config import first_line, peft_config, plain
from lofit.errors import LofitError
from lofit.extras import extra

NAME = "default"


@dataclass(frozen=True)
class Swap:
    """A module of PEFT's, and the one of the model that it stands in for and holds."""

    parent: nn.Module

    name: str

    old: nn.Module

    new: nn.Module


@dataclass(frozen=True)
class Owner:
    """Where a tensor sits: `module._parameters[key]`, or `_buffers`."""

    module: nn.Module

    key: str

    trained: bool

    def holds(self) -> Tensor:
        return (self.module._parameters if self.trained else self.module._buffers)[self.key]  # type: ignore[return-value]

    def take(self, tensor: Tensor) -> None:
        (self.module._parameters if self.trained else self.module._buffers)[self.key] = tensor  # type: ignore[assignment]


@dataclass(frozen=True)
class PeftModules:
    """What PEFT makes of a config for one model; the model is as it was."""

    config: dict[str, Any]
    """The config with what PEFT has filled in, such as the modules that it targets by default."""

    swaps: list[Swap]

    added: list[nn.Module]
    """All modules that are PEFT's own."""

    owners: dict[str, list[Owner]]
    """By the names of PEFT's files; a tensor that layers share has several."""


def make_modules(model: nn.Module, values: Mapping[str, Any], *, seed: int) -> PeftModules:
    """The modules of a PEFT config for `model`, with initial weights that `seed` decides.

    Raises:
        LofitError: the config cannot be trained here, does not fit the model, or would change more of the model than
            modules in it; or there is an adapter of PEFT in it.
    """
    config = peft_config(values)
    with extra("export", "adapters of PEFT need"):
        from peft import get_peft_model, get_peft_model_state_dict
        from peft.tuners.tuners_utils import BaseTunerLayer
    if any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise LofitError("model: got one with an adapter of PEFT in it; expected the model as it is, or without it")
    before = Snapshot(model)
    try:
        with drawn_from(seed, model), warnings.catch_warnings():
            # On transposed weights, and merges that are never made.
            warnings.simplefilter("ignore")
            tuned = get_peft_model(model, config, adapter_name=NAME)
            tensors = get_peft_model_state_dict(
                tuned, state_dict=tuned.state_dict(keep_vars=True), adapter_name=NAME, save_embedding_layers=False
            )
        before.refuse_rewritten()
        swaps = before.swaps()
        added = before.added(swaps)
        return PeftModules(plain(tuned.peft_config[NAME]), swaps, added, _owners(tensors, added))
    except LofitError:
        raise
    except (AttributeError, ImportError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise LofitError(
            f"config: got {dict(values)!r}; expected one that fits {type(model).__name__} ({first_line(error)})"
        ) from None
    finally:
        before.restore()


def _owners(tensors: Mapping[str, Tensor], added: list[nn.Module]) -> dict[str, list[Owner]]:
    places: dict[int, list[Owner]] = {}
    for module in added:
        for held, trained in ((module._parameters, True), (module._buffers, False)):
            for key, tensor in held.items():
                if tensor is not None:
                    places.setdefault(id(tensor), []).append(Owner(module, key, trained))
    names = {id(tensor): name for name, tensor in tensors.items()}
    if len(names) < len(tensors) or names.keys() - places:
        raise LofitError("config: PEFT saves a tensor twice, or one that no module holds; expected each once")

    for place, (owner, *_) in places.items():
        if owner.holds().requires_grad and place not in names:
            raise LofitError(f"config: PEFT trains {owner.key} but does not save it; expected a config that saves all")
    return {name: places[place] for place, name in sorted(names.items(), key=lambda item: item[1])}


@contextmanager
def drawn_from(seed: int, model: nn.Module) -> Iterator[None]:
    """Until the block ends, torch's global random numbers come from `seed`; afterwards they go on as before."""
    devices = sorted({tensor.device for tensor in model.parameters() if tensor.device.type == "cuda"}, key=str)
    with torch.random.fork_rng(devices=devices):
        # Not torch.manual_seed, which would also seed devices whose state is not kept here.
        torch.default_generator.manual_seed(seed)
        for device in devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


class Snapshot:
    """All that PEFT may change of a model, to be put back: its modules' attributes, its config, what gets gradients."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._modules = list(model.modules())
        config = getattr(model, "config", None)
        owners: list[Any] = [*self._modules, *([] if config is None else [config])]
        self._attributes = [
            (owner, {key: (value, contents(value)) for key, value in vars(owner).items()}) for owner in owners
        ]
        self._weights = [
            (weight, weight.requires_grad, weight.data_ptr(), weight._version) for weight in model.parameters()
        ]
        self._classes = [type(module) for module in self._modules]

    def restore(self) -> None:
        for owner, attributes in self._attributes:
            now = vars(owner)
            for key in now.keys() - attributes:
                del now[key]
            for key, (value, content) in attributes.items():
                now[key] = value
                if content is not None:
                    value.clear()
                    (value.extend if isinstance(value, list) else value.update)(content)
        for weight, requires_grad, _, _ in self._weights:
            weight.requires_grad_(requires_grad)

    def refuse_rewritten(self) -> None:
        """A LofitError where weights have been replaced or changed in place, or a module's class, tensors or hooks."""
        weights = all(
            (weight.data_ptr(), weight._version) == (place, version) for weight, _, place, version in self._weights
        )
        model: Any = self.model
        embeddings = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
        same = [type(module) for module in self._modules] == self._classes and all(
            # With checkpointed activations PEFT hooks the embeddings, for a form of checkpointing that is not used.
            content is None or key == "_modules" or owner is embeddings or list(value) == list(content)
            for owner, attributes in self._attributes[: len(self._modules)]
            for key, (value, content) in attributes.items()
            if key in ("_parameters", "_buffers") or key.endswith("hooks")
        )
        if not (weights and same):
            raise LofitError("config: got a type that changes the base model; expected one that adds modules to it")

    def swaps(self) -> list[Swap]:
        """Which children have been replaced."""
        found = []
        for owner, attributes in self._attributes[: len(self._modules)]:
            before = attributes["_modules"][1] or {}
            for name, new in vars(owner)["_modules"].items():
                if name not in before:
                    raise LofitError(f"config: PEFT adds {name} to a module; expected modules in place of others")
                if new is not before[name]:
                    found.append(Swap(owner, name, before[name], new))
        return found

    def added(self, swaps: list[Swap]) -> list[nn.Module]:
        """The modules in the replacements that are not the model's."""
        known = {id(module) for module in self._modules}
        found = {id(module): module for swap in swaps for module in swap.new.modules() if id(module) not in known}
        return list(found.values())


def contents(value: Any) -> Any:
    """A copy of what may be changed in place, such as the hooks and the children of a module; None for other values."""
    return value.copy() if type(value) in (dict, OrderedDict, list, set) else None
