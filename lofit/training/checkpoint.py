"""Checkpoints of a running loop: written whole or not at all, and only ever read back for the same inputs."""

import hashlib
import json
import shutil
import time
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer

SECONDS = 5.0
"""How much work a kill may cost: a checkpoint is written once this long has passed since the last one."""


def fingerprint(*inputs: object) -> str:
    """A short name for everything that decides a loop's result.

    Paths stand for the content of their files (a folder: of every file below it); tensors for their numbers; anything
    else for its JSON.
    """
    digest = hashlib.sha256()
    for item in inputs:
        if isinstance(item, Path):
            for file in sorted(item.rglob("*")) if item.is_dir() else [item]:
                if file.is_file():
                    digest.update(hashlib.sha256(file.read_bytes()).digest())
        elif isinstance(item, Tensor):
            digest.update(item.detach().float().cpu().contiguous().numpy().tobytes())
        else:
            digest.update(json.dumps(item, sort_keys=True, default=str).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:20]


class Checkpoint:
    """The latest state of one loop, in a folder.

    Args:
        folder: where it is kept; None for nowhere.
        inputs: the `fingerprint` of what decides the loop's result: the state of another one is not read.
        seconds: how long to work between two states; None for `SECONDS`.
    """

    def __init__(self, folder: Path | None, *, inputs: str = "", seconds: float | None = None) -> None:
        self.folder = folder
        self.inputs = inputs
        self.seconds = SECONDS if seconds is None else seconds
        self.seconds_before = 0.0
        """How long the loop had worked when the state was written that `load` has returned."""
        self._saved = time.monotonic()

    def due(self) -> bool:
        """Whether enough work has been done since the last state to write another."""
        return self.folder is not None and time.monotonic() - self._saved >= self.seconds

    def save(self, step: int, tensors: dict[str, Tensor], history: list[dict], *, spent: float = 0.0) -> None:
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / "state.safetensors"
        partial = file.with_suffix(".partial")
        # One file holds everything, so that a kill between two writes cannot mix two steps.
        save_file(
            {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()},
            partial,
            metadata={"record": json.dumps({"step": step, "history": history, "inputs": self.inputs, "spent": spent})},
        )
        partial.replace(file)
        self._saved = time.monotonic()

    def load(self) -> tuple[int, dict[str, Tensor], list[dict]] | None:
        """(number of steps done, tensors, history), or None where there is nothing to resume."""
        if self.folder is None or not (file := self.folder / "state.safetensors").exists():
            return None
        try:
            with safe_open(file, framework="pt") as opened:
                record = json.loads(opened.metadata()["record"])
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        except SafetensorError:
            # Damaged on disk: starting over loses less than failing for ever.
            return None
        self.seconds_before = record.get("spent", 0.0)
        return (record["step"], tensors, record["history"]) if record.get("inputs", "") == self.inputs else None

    def clear(self) -> None:
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def optimizer_tensors(optimizer: Optimizer, prefix: str = "optimizer") -> dict[str, Tensor]:
    """The optimizer's state as named tensors, `prefix.<parameter>.<key>`."""
    return {
        f"{prefix}.{index}.{key}": value
        for index, state in optimizer.state_dict()["state"].items()
        for key, value in state.items()
    }


def load_optimizer_tensors(optimizer: Optimizer, tensors: dict[str, Tensor], prefix: str = "optimizer") -> None:
    """Put back what `optimizer_tensors` took out."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(f"{prefix}."):
            index, key = name.removeprefix(f"{prefix}.").split(".")
            state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
