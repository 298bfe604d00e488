"""Whether the name of a model is a folder or can be an id on the Hugging Face hub; anything else is refused."""

from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from lofit.errors import LofitError
from lofit.storage.files import read_json

EXPECTED = "a folder with a model, or a model id on the Hugging Face hub"


def looks_like_path(name: str) -> bool:
    """Whether nobody who writes this means an id on the hub: `name` or `owner/name`."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return True
    return name.startswith(("./", "../"))


def refuse_non_model(source: str) -> None:
    """A LofitError where `source` is a folder or a file that is no model, or the path of none; the hub is not asked."""
    place = Path(source)
    if place.is_dir():
        refuse_peft(place)
    elif place.exists():
        raise LofitError(f"model {source!r}: got a file; expected {EXPECTED}")
    elif looks_like_path(source):
        raise LofitError(f"model {source!r}: no such folder; expected {EXPECTED}")


def refuse_peft(folder: Path) -> None:
    """A LofitError where a folder holds a PEFT adapter and not the model that it is for."""
    file = folder / "adapter_config.json"
    if not file.is_file() or (folder / "config.json").exists():
        return
    try:
        config = read_json(file)
    except ValueError as error:
        raise LofitError(f"{file}: not valid JSON ({error})") from None
    base = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    raise LofitError(
        f"model {str(folder)!r}: a PEFT adapter, no whole model; merge it first (`merge_and_unload`) or name its base"
        f"{f', {base}' if base else ''}"
    )


def not_found(source: str) -> str:
    """What to say where the hub does not have `source` either, or cannot be asked."""
    if "/" in source:
        return f"{source!r}: not found; expected {EXPECTED}"
    return f"{source!r}: no such folder, nor a model that the Hugging Face hub or its cache has; expected {EXPECTED}"
