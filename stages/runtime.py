"""runtime.yaml: how the pipeline is run. Nothing in it decides a result, so DVC does not look at it.

An environment variable LOFIT_<KEY> takes precedence over the key of that name, for one command.
"""

import os
from pathlib import Path
from typing import Literal

import yaml
from pydantic import ValidationError

from lofit.errors import LofitError
from lofit.settings import Count, Device, NotNegative, Settings, faults_in
from lofit.training.settings import Runtime
from stages import paths
from stages.params.yaml_file import read_yaml


class RuntimeFile(Settings):
    """The keys of runtime.yaml."""

    device: Device = "auto"
    """Where the model runs; `auto` takes the first accelerator there is, or the CPU."""

    device_map: Literal["auto"] | None = None
    """`auto` spreads the layers of one model over all accelerators and the CPU; null keeps it on `device`."""

    micro_batch_size: Count | None = None
    """Examples in one forward pass of training; null for the whole batch at once."""

    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""

    keep_prefix: bool = True
    """Run the layers below the lowest trained one only once for each example."""

    prefix_memory_gb: NotNegative = 4.0
    """Up to which size their output is kept in memory; beyond it, in a file in .cache/."""

    processes: Count = 1
    """Processes that share every training batch, one on each GPU."""

    tracking: Literal["on", "off"] = "on"
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
    for key in RuntimeFile.model_fields:
        if (value := os.environ.get(f"LOFIT_{key.upper()}")) is not None:
            values[key] = value if value in ("on", "off") else yaml.safe_load(value)
    # YAML reads a bare on and off as true and false.
    if isinstance(values.get("tracking"), bool):
        values["tracking"] = "on" if values["tracking"] else "off"
    try:
        return RuntimeFile.model_validate(values)
    except ValidationError as error:
        raise LofitError("\n".join(f"{file.name}: {fault}" for fault in faults_in(error, RuntimeFile))) from None
