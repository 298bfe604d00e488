"""The folder of an adapter: config.json, model.safetensors and README.md; written, and read with suspicion."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import save

from lofit.adapters.card import adapter_card
from lofit.adapters.provenance import Provenance
from lofit.errors import LofitError
from lofit.settings import faults_in
from lofit.storage.files import json_text, read_json, write_whole
from lofit.storage.hub import fetch

if TYPE_CHECKING:
    from lofit.adapters.base import Adapter

FORMAT_VERSION = 3
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "README.md"
HUB_FILES = (CONFIG_FILE, WEIGHTS_FILE, "adapter_model.safetensors")


class Shape(Provenance):
    """The content of config.json; each kind adds what its tensors need to be understood."""

    format_version: int = FORMAT_VERSION

    kind: str

    @classmethod
    def upgraded(cls, config: dict[str, Any]) -> dict[str, Any]:
        """What an older version of the format has written, as this one would have."""
        return config

    def check(self) -> None:
        """A LofitError where values do not fit each other."""

    def provenance(self) -> Provenance:
        return Provenance(**{name: getattr(self, name) for name in Provenance.model_fields})


AnyAdapter = TypeVar("AnyAdapter", bound="Adapter")


def write_adapter(folder: Path, adapter: "Adapter", *, card: bool = True) -> None:
    """Write config, tensors and, where it is wanted, the card; the same adapter always gives the same bytes."""
    # Provenance first, then what the kind adds.
    known = adapter.provenance.model_dump()
    text = json_text({"format_version": FORMAT_VERSION, "kind": adapter.kind, **known, **adapter.facts()})
    tensors = {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in adapter.tensors().items()}
    # Delete the config first and write it last, so that a half-written folder cannot be loaded.
    (folder / CONFIG_FILE).unlink(missing_ok=True)
    write_whole(folder / adapter.weights_file, save(tensors))
    for name, content in adapter.other_files().items():
        write_whole(folder / name, content)
    if card:
        write_whole(folder / CARD_FILE, adapter_card(adapter))
    write_whole(folder / CONFIG_FILE, text)


def read_adapter(kind: type[AnyAdapter], place: str | Path, **options: Any) -> AnyAdapter:
    """What `write_adapter` wrote, this version of it or an older one, as an adapter of this kind.

    Raises:
        LofitError: a file is missing, cut short, foreign, of a newer format, or does not fit the other.
    """
    from safetensors.torch import load_file

    folder = here(place, **options)
    config, file = read_config(folder), folder / kind.weights_file
    if (met := kind_of(config)) != kind.kind:
        raise LofitError(f"{folder}: got an adapter of kind {met}; expected {kind.kind}, or lofit.load_adapter")
    try:
        shape = kind.Shape.model_validate(kind.Shape.upgraded(config))
        shape.check()
    except (ValidationError, LofitError) as error:
        faults = [str(error)] if isinstance(error, LofitError) else faults_in(error, kind.Shape)
        raise LofitError("\n".join(f"{folder / CONFIG_FILE}: {fault}" for fault in faults)) from None
    try:
        tensors = load_file(file)
    except FileNotFoundError:
        raise LofitError(f"{file}: no such file; expected a folder written by save_pretrained") from None
    except SafetensorError as error:
        raise LofitError(f"{file}: not a whole safetensors file ({error})") from None
    try:
        adapter = kind.from_parts(shape, tensors)
    except LofitError as error:
        raise LofitError(f"{file}: {error}") from None
    adapter.provenance = shape.provenance()
    return adapter


def kind_of(config: dict[str, Any]) -> str:
    """The kind that a config says; up to version 2 there were heads alone, and nothing said so."""
    return str(config.get("kind", "heads" if config["format_version"] < 3 else None))


def here(place: str | Path, **options: Any) -> Path:
    """The folder of an adapter: this one, or that of the hub where there is no such folder."""
    folder = Path(place)
    return folder if folder.is_dir() else fetch(str(place), what="adapter", files=HUB_FILES, **options)


def read_config(folder: Path) -> dict[str, Any]:
    """config.json as a dict, of a version that this library knows.

    Raises:
        LofitError: it is missing, no JSON, no adapter's, or of a newer format.
    """
    file = folder / CONFIG_FILE
    try:
        config = read_json(file)
    except FileNotFoundError:
        is_peft = (folder / "adapter_config.json").exists()
        met = "a PEFT adapter, which AutoModelForCausalLM.from_pretrained reads" if is_peft else "no such file"
        raise LofitError(f"{file}: {met}; expected a folder written by save_pretrained") from None
    except ValueError as error:
        raise LofitError(f"{file}: not valid JSON ({error})") from None
    version = config.get("format_version") if isinstance(config, dict) else None
    if type(version) is not int or version < 1:
        raise LofitError(f"{file}: not an adapter (no format_version); expected a folder written by save_pretrained")
    if version > FORMAT_VERSION:
        raise LofitError(f"{file}: format_version is {version}; expected up to {FORMAT_VERSION}, or a newer lofit")
    return config
