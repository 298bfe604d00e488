"""Tensors of a checkpoint in safetensors files, whole or in shards; pickled ones are never opened."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from safetensors import SafetensorError, safe_open

from lofit.errors import LofitError
from lofit.storage.files import read_json
from lofit.storage.hub import fetch

if TYPE_CHECKING:
    from torch import Tensor

CONFIG_FILE = "config.json"
HUB_FILES = ("*.safetensors", "*.index.json", CONFIG_FILE)


class Weights:
    """The tensors in a folder or a file, by name; nothing but the names is read until `read`.

    Raises:
        LofitError: there are no safetensors, a file is cut short, or an index is none.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self.index: Path | None = None
        self.files: dict[str, Path] = self._listed() or self._found()

    @classmethod
    def of(cls, source: str | Path, **options: Any) -> Self:
        """Those of a folder, of a file, or of an id on the Hugging Face hub where there is neither.

        `options` are the hub's, such as revision.
        """
        place = Path(source)
        if not place.exists():
            place = fetch(str(source), what="checkpoint", files=HUB_FILES, **options)
        return cls(place)

    def config(self) -> dict:
        """What the checkpoint's config.json says; nothing where there is none."""
        folder = self.place if self.place.is_dir() else self.place.parent
        return _read(folder / CONFIG_FILE) if (folder / CONFIG_FILE).is_file() else {}

    def read(self, names: Iterable[str]) -> "dict[str, Tensor]":
        """The tensors of these names, which have to be among `files`, as they are stored.

        Raises:
            LofitError: a shard is missing, cut short, or lacks what the index says it holds.
        """
        wanted: dict[Path, list[str]] = {}
        for name in names:
            wanted.setdefault(self.files[name], []).append(name)
        for file in wanted:
            if not file.is_file():
                raise LofitError(
                    f"{self.index}: names {file.name}, which is missing; expected a checkpoint with all shards"
                )
        tensors: dict[str, Tensor] = {}
        for file, held in wanted.items():
            try:
                with safe_open(file, framework="pt") as opened:
                    if lost := sorted({*held} - {*opened.keys()}):
                        raise LofitError(
                            f"{self.place}: {lost[0]} is not in the shard that the index names; expected a whole "
                            "checkpoint"
                        )
                    tensors |= {name: opened.get_tensor(name) for name in held}
            except SafetensorError as error:
                raise LofitError(f"{file}: not a whole safetensors file ({error})") from None
        return tensors

    def _listed(self) -> dict[str, Path]:
        """The file of each tensor by the index; nothing where there is no index."""
        self.index = next(iter(sorted(self.place.glob("*.safetensors.index.json"))), None)
        if self.index is None:
            return {}
        shards = _read(self.index).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise LofitError(f"{self.index}: got no weight_map; expected the index of a checkpoint in shards")
        return {name: self.place / shard for name, shard in shards.items()}

    def _found(self) -> dict[str, Path]:
        """The file of each tensor by what the files say themselves."""
        alone = self.place.is_file() and self.place.suffix == ".safetensors"
        names: dict[str, Path] = {}
        for file in [self.place] if alone else sorted(self.place.glob("*.safetensors")):
            try:
                with safe_open(file, framework="pt") as opened:
                    names |= dict.fromkeys(opened.keys(), file)
            except SafetensorError as error:
                raise LofitError(f"{file}: not a whole safetensors file ({error})") from None
        if not names:
            raise LofitError(
                f"{self.place}: no safetensors weights; expected a folder that holds some, or such a file. Pickled "
                "weights (.bin, .pt) can run code, so they are never read: where they were made, save them again by "
                "save_pretrained(FOLDER, safe_serialization=True)"
            )
        return names


def _read(file: Path) -> dict:
    try:
        content = read_json(file)
    except ValueError as error:
        raise LofitError(f"{file}: not valid JSON ({error})") from None
    return content if isinstance(content, dict) else {}
