"""runtime.yaml: how the pipeline is run. Nothing in it decides a result, so DVC does not look at it.

An environment variable LOFIT_<KEY> takes precedence over the key of that name, for one command.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from lofit.errors import LofitError
from lofit.settings import Count, Device, NotNegative, Settings, faults_in
from lofit.training.settings import Runtime
from stages import paths
from stages.params.yaml_file import parse_yaml, read_yaml


def _on_or_off(value: Any) -> bool:
    """What people write for a switch: on, true, yes or 1, and their opposites, in any case."""
    try:
        return TypeAdapter(bool).validate_python(value)
    except ValidationError:
        raise PydanticCustomError("switch", "Input should be on or off") from None


Switch = Annotated[bool, BeforeValidator(_on_or_off)]


class RuntimeFile(Settings):
    """The keys of runtime.yaml."""

    device: Device = "auto"
    """Where the model runs; `auto` takes the first accelerator there is, or the CPU."""

    device_map: Literal["auto"] | None = None
    """`auto` spreads the layers of one model over all accelerators and the CPU; null keeps it on `device`."""

    micro_batch_size: Count | None = None
    """Examples in one forward pass of training; null for the whole batch at once."""

    gradient_checkpointing: Switch = False
    """Recompute activations in the backward pass: less memory, more time."""

    keep_prefix: Switch = True
    """Run the layers below the lowest trained one only once for each example."""

    prefix_memory_gb: NotNegative = 4.0
    """Up to which size their output is kept in memory; beyond it, in a file in .cache/."""

    processes: Count = 1
    """Processes that share every training batch, one on each GPU."""

    tracking: Switch = True
    """Whether stages write to MLflow."""

    def for_training(self) -> Runtime:
        """What of this concerns training."""
        shared = {"micro_batch_size", "gradient_checkpointing", "keep_prefix", "prefix_memory_gb"}
        return Runtime(**self.model_dump(include=shared), scratch=paths.cache_folder())


def read_runtime(file: Path | None = None) -> RuntimeFile:
    """The file, where there is one, with what the environment says instead.

    Raises:
        LofitError: one line per fault, each naming the key, the value and what is expected.
    """
    file = file or paths.project_root() / paths.RUNTIME
    values = (read_yaml(file) or {}) if file.exists() else {}
    if not isinstance(values, dict):
        raise LofitError(f"{file.name}: got {values!r}; expected keys and values")
    variables = {key: name for key in RuntimeFile.model_fields if (name := f"LOFIT_{key.upper()}") in os.environ}
    values |= {key: parse_yaml(os.environ[name], name=name) for key, name in variables.items()}
    try:
        return RuntimeFile.model_validate(values)
    except ValidationError as error:
        faults = [fault.partition(": ") for fault in faults_in(error, RuntimeFile)]
        places = [variables.get(key, f"{file.name}: {key}") for key, _, _ in faults]
        lines = [f"{place}: {what}" for place, (_, _, what) in zip(places, faults, strict=True)]
        raise LofitError("\n".join(lines)) from None
