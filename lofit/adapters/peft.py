"""PeftAdapter: any adapter of PEFT that adds modules to a model, and its folder, which PEFT reads as it is."""

from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from lofit.adapters.attachment import forget_compiled_code
from lofit.adapters.base import Adapter
from lofit.adapters.folder import Shape
from lofit.adapters.named import hold
from lofit.adapters.peft_config import peft_config
from lofit.adapters.peft_modules import PeftModules, Swap, drawn_from, make_modules
from lofit.adapters.provenance import Provenance
from lofit.errors import LofitError
from lofit.models.layout import HeadLayout
from lofit.settings import Seed
from lofit.storage.files import json_text

STEPS = 1_000_003
"""More than the steps of any run, so that those of two seeds share no random numbers."""

USAGE = """\
In PEFT, without lofit:

```python
from peft import PeftModel

model = PeftModel.from_pretrained(model, "THIS_FOLDER")
```
"""


class PeftShape(Shape):
    """The content of config.json."""

    kind: Literal["peft"] = "peft"

    config: dict[str, Any]
    """The PEFT config: peft_type and the keys of that type."""

    seed: Seed
    """What decides the numbers that PEFT draws and does not save, such as fixed projections."""

    frozen: list[str] = Field(default_factory=list)
    """Names of the tensors that are saved but not trained."""


class PeftAdapter(Adapter):
    """The tensors of an adapter of PEFT, under the names of PEFT's files.

    PEFT's modules are made each time it is attached, and use these tensors themselves. Those of floating point are
    float32, also where the model is not; the output of a module has the dtype of the one that it replaces.

    Args:
        config: the PEFT config as plain values, with the modules that it targets.
        tensors: by name.
        seed: of the initial values, of numbers that PEFT does not save, and of dropout.
        frozen: names of the tensors that are not trained.
        provenance: where they come from.

    Raises:
        LofitError: the config cannot be trained here, or peft is not installed.
    """

    kind = "peft"
    site = "PEFT's modules"
    Shape = PeftShape
    weights_file: ClassVar[str] = "adapter_model.safetensors"

    def __init__(
        self,
        config: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        *,
        seed: int = 0,
        frozen: tuple[str, ...] | list[str] = (),
        provenance: Provenance | None = None,
    ) -> None:
        super().__init__()
        peft_config(config)
        self.provenance = provenance or Provenance()
        self.config, self.seed, self.frozen = dict(config), seed, sorted(frozen)
        for name, tensor in sorted(tensors.items()):
            value = tensor.detach().float() if tensor.is_floating_point() else tensor.detach()
            hold(self, name, value.clone(), trained=name not in self.frozen)
        self._added: list[nn.Module] = []
        self._step = ExitStack()

    @classmethod
    def fresh(cls, model: nn.Module, config: Mapping[str, Any], *, seed: int) -> Self:
        """An untrained adapter for `model`, with PEFT's initial values, drawn from `seed`; the model is as it was.

        Raises:
            LofitError: the config cannot be trained here, or does not fit the model.
        """
        made = make_modules(model, config, seed=seed)
        tensors = {name: owners[0].holds() for name, owners in made.owners.items()}
        frozen = [name for name, tensor in tensors.items() if not tensor.requires_grad]
        if len(frozen) == len(tensors):
            raise LofitError(f"config: got {dict(config)!r}; expected one that trains something")
        return cls(made.config, tensors, seed=seed, frozen=frozen)

    def attach(self, model: nn.Module, layout: HeadLayout | None = None) -> "PeftAttachment":
        """Put PEFT's modules, with this adapter's tensors, into `model` until `detach()` or the end of the block.

        Raises:
            LofitError: the tensors are not those that the config has in this model; or it holds modules of PEFT.
        """
        # torch.compile wraps a model, and the modules are for what is inside.
        model = getattr(model, "_orig_mod", model)
        if layout is not None:
            self.provenance.check_fits(layout)
        made = make_modules(model, self.config, seed=self.seed)
        own = dict(self.state_dict(keep_vars=True))
        if own.keys() != made.owners.keys():
            odd = min(own.keys() ^ made.owners.keys())
            met = "a tensor of the adapter alone" if odd in own else "a tensor of the model alone"
            raise LofitError(f"{odd}: got {met}; expected the model that the adapter was made for")
        for name, owners in made.owners.items():
            shape = owners[0].holds().shape
            if own[name].shape != shape:
                raise LofitError(f"{name}: got shape {tuple(own[name].shape)}; expected the model's {tuple(shape)}")
        for name, owners in made.owners.items():
            for owner in owners:
                owner.take(own[name])
        return PeftAttachment(self, made)

    def begin_step(self, step: int) -> None:
        """Dropout is at work from here to `end_step`, and draws from the seed and `step`."""
        self.finish_step()
        self._step.enter_context(drawn_from((self.seed * STEPS + step) % 2**63, self))
        for module in self._added:
            module.training = True

    def end_step(self, lr: float) -> None:
        self.finish_step()

    def finish_step(self) -> None:
        """No dropout from here on; random numbers of others go on where they were. Nothing where no step has begun."""
        for module in self._added:
            module.training = False
        self._step.close()

    @property
    def served_as(self) -> str | None:
        return "PEFT"

    def facts(self) -> dict[str, Any]:
        return {"config": self.config, "seed": self.seed, "frozen": self.frozen}

    @classmethod
    def from_parts(cls, shape: PeftShape, tensors: dict[str, Tensor]) -> Self:
        if unknown := sorted({*shape.frozen} - tensors.keys()):
            raise LofitError(f"frozen: got {unknown[0]}; expected names of tensors")
        return cls(shape.config, tensors, seed=shape.seed, frozen=shape.frozen)

    def other_files(self) -> dict[str, str]:
        """The config that PEFT reads; the same adapter, the same bytes."""
        about = {
            "base_model_name_or_path": self.provenance.base_model,
            "revision": self.provenance.commit,
            "inference_mode": True,
            "task_type": "CAUSAL_LM",
        }
        return {"adapter_config.json": json_text(dict(sorted({**self.config, **about}.items())))}

    def summary(self) -> str:
        numbers = sum(parameter.numel() for parameter in self.parameters())
        modules = self.config.get("target_modules")
        places = f" on {', '.join(modules) if isinstance(modules, list) else modules}" if modules else ""
        return f"An adapter of PEFT, {self.config['peft_type']}{places}: {numbers:,} trained numbers."

    def usage(self) -> str:
        return USAGE

    def limits(self) -> str:
        return "- It is tried on the base model and revision named above only."


class PeftAttachment:
    """PEFT's modules in a model. A context manager; `detach()` may be called more than once."""

    def __init__(self, adapter: PeftAdapter, made: PeftModules) -> None:
        self._adapter, self._swaps, self._added = adapter, made.swaps, made.added
        for module in made.added:
            module.training = False
        adapter._added += made.added
        for swap in made.swaps:
            swap.new.register_forward_hook(_in_dtype_of(swap))
            _exchange_pre_hooks(swap)
            swap.parent._modules[swap.name] = swap.new
        forget_compiled_code()

    def detach(self) -> None:
        if not self._swaps:
            return
        self._adapter.finish_step()
        for swap in reversed(self._swaps):
            swap.parent._modules[swap.name] = swap.old
            _exchange_pre_hooks(swap)
        gone = {id(module) for module in self._added}
        self._adapter._added = [module for module in self._adapter._added if id(module) not in gone]
        # They hold the model's modules.
        self._swaps, self._added = [], []
        forget_compiled_code()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.detach()


def _exchange_pre_hooks(swap: Swap) -> None:
    """Give what edits a module's input to the one that stands in for it, and back again.

    The module inside reads only a part of what the whole one does: of an output projection under LoRA, B A z would be
    made of a z without the edit of heads. The dicts are exchanged, not what they hold: handles remove hooks from them.
    """
    for kind in ("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"):
        before, now = getattr(swap.old, kind), getattr(swap.new, kind)
        setattr(swap.old, kind, now)
        setattr(swap.new, kind, before)


def _in_dtype_of(swap: Swap) -> Any:
    """A hook that gives a module's output the dtype that the one it stands in for would give.

    PEFT leaves that out for some types: float32 from one module is more than the next, in 16 bits, takes.
    """
    dtypes = [weight.dtype for weight in swap.old.parameters() if weight.is_floating_point()]

    def cast(_: nn.Module, args: tuple, output: Any) -> Any:
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return output
        read = [value.dtype for value in args if isinstance(value, Tensor) and value.is_floating_point()]
        wanted: list[torch.dtype] = [*dtypes, *read]
        return output.to(wanted[0]) if wanted else output

    return cast


ADAPTER = PeftAdapter
