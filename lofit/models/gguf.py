"""GGUF files as folders that transformers reads, converted by transformers and compared with the file.

A GGUF file is read slowly, cannot be trained on, and states a model in llama.cpp's words. transformers passes over what
it does not know of these, in silence; here that is an error.
"""

from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from lofit.errors import LofitError
from lofit.extras import extra
from lofit.models.gguf_tokenizer import convert_tokenizer
from lofit.storage.files import json_text, read_json, whole_folder

if TYPE_CHECKING:
    from gguf import GGUFReader
    from transformers import PreTrainedModel

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma3")
"""Those whose conversion is compared with the model that a file was made from, by a test."""

READ = {
    *("context_length", "block_count", "embedding_length", "feed_forward_length", "vocab_size"),
    *("attention.head_count", "attention.head_count_kv", "attention.layer_norm_rms_epsilon"),
    *("attention.key_length", "attention.value_length", "attention.sliding_window"),
    *("rope.freq_base", "rope.dimension_count"),
}
"""What a file may say of its architecture; the rest would be lost."""

UNUSED = {"rope.scaling.type": "none", "attention.causal": True, "rope.freq_base_swa": 10000.0}
"""What it may say besides, where it says that nothing is different."""

VARIABLE = ("transformers_version", "_model_name_or_path", "name_or_path", "is_local", "local_files_only")
"""Keys of the configs that say nothing of the model."""


def convert(file: Path, out: Path, *, force: bool = False) -> None:
    """Write the model of a GGUF file as a folder: float32 weights in safetensors, configs, tokenizer, chat template.

    Quantised weights get the values that they stand for. The folder is the same, byte for byte, wherever the same
    versions of transformers and gguf write it, and appears when it is complete.

    Raises:
        LofitError: it is no GGUF file, is cut off, or holds something that would be lost; or `out` is not empty and
            `force` is not set.
    """
    reader = read(file)
    check_metadata(file, reader)
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    with (
        TemporaryDirectory(dir=out.absolute().parent, prefix=".gguf.") as scratch,
        whole_folder(out, force=force) as folder,
        # Bars and warnings of transformers: what counts of them is an error here.
        redirect_stderr(StringIO()),
    ):
        # Alone under a name of its own: other files next to it would be taken for parts of the model.
        alone = Path(scratch, "model.gguf")
        alone.symlink_to(file.absolute())
        model = load_weights(file, alone)
        check_weights(file, reader, model)
        model.save_pretrained(folder, max_shard_size="1TB")
        convert_tokenizer(file, reader, alone, folder)
        for config in folder.glob("*.json"):
            if config.name != "tokenizer.json":
                values = {key: value for key, value in read_json(config).items() if key not in VARIABLE}
                config.write_text(json_text(dict(sorted(values.items()))), encoding="utf-8")


def read(file: Path) -> "GGUFReader":
    """What a GGUF file states, its weights left on the disk.

    Raises:
        LofitError: there is no such file, it is none, or it is cut off.
    """
    with extra("models", "GGUF files need"):
        from gguf import GGUFReader

    if not file.is_file():
        raise LofitError(f"{file}: no such file; expected a GGUF file")
    with file.open("rb") as opened:
        if (magic := opened.read(4)) != b"GGUF":
            raise LofitError(f"{file}: begins with {magic!r}; expected a GGUF file")
    try:
        return GGUFReader(file)
    except (ValueError, IndexError, KeyError, OverflowError, UnicodeDecodeError, MemoryError) as error:
        reason = " ".join(str(error).split())
        raise LofitError(f"{file}: cut off or damaged ({reason}); expected a whole GGUF file") from None


def value(reader: "GGUFReader", key: str) -> Any:
    """What a file says under a key; None where it says nothing."""
    field = reader.get_field(key)
    return None if field is None else field.contents()


def check_metadata(file: Path, reader: "GGUFReader") -> None:
    """Refuse an architecture that no test knows, and statements about it that transformers would pass over."""
    architecture = value(reader, "general.architecture")
    if architecture not in ARCHITECTURES:
        raise LofitError(f"{file}: got architecture {architecture!r}; expected {', '.join(ARCHITECTURES)}")
    stated = {
        key.removeprefix(f"{architecture}."): value(reader, key)
        for key in reader.fields
        if key.startswith(f"{architecture}.")
    }
    for key, given in stated.items():
        if key not in READ and not (key in UNUSED and given == UNUSED[key]):
            raise LofitError(
                f"{file}: {architecture}.{key}: got {str(given)[:60]}; expected a file without it, since transformers "
                "would drop it in silence"
            )


def load_weights(file: Path, alone: Path) -> "PreTrainedModel":
    """The model as transformers converts it, in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(alone.parent),
            gguf_file=alone.name,
            dtype=torch.float32,
            output_loading_info=True,
            # They are refused below, by name.
            ignore_mismatched_sizes=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, KeyError, NotImplementedError, RuntimeError, TypeError) as error:
        reason = " ".join(str(error).replace(str(alone), str(file)).split())
        raise LofitError(f"{file}: cannot be converted: {reason}") from None
    model, loading = loaded
    for fault, keys in (
        ("lacks", loading["missing_keys"]),
        ("has another shape for", [key for key, *_ in loading["mismatched_keys"]]),
        ("holds, where the architecture has no place for it,", loading["unexpected_keys"]),
    ):
        if keys:
            raise LofitError(f"{file}: {fault} {min(keys)}; expected the tensors of a {type(model).__name__}")
    # Its weights are plain numbers now; `save_pretrained` refuses what calls itself quantised.
    del model.config.quantization_config
    if hasattr(model, "hf_quantizer"):
        del model.hf_quantizer
    if model.config.model_type == "gemma3_text":
        # The file leaves it to be known. Where it is another number, in the largest model, so are keys refused above.
        model.config.query_pre_attn_scalar = model.config.head_dim
    return model


def check_weights(file: Path, reader: "GGUFReader", model: "PreTrainedModel") -> None:
    """Refuse where a tensor of the file has no place in the model, or the shape of a head is not what the file says."""
    held = sum(int(tensor.n_elements) for tensor in reader.tensors)
    placed = sum(weight.numel() for weight in model.parameters())
    if held != placed:
        raise LofitError(f"{file}: holds {held:,} numbers; expected {placed:,}, those of a {type(model).__name__}")
    config = model.config.get_text_config(decoder=True)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    architecture = value(reader, "general.architecture")
    for key in ("attention.key_length", "attention.value_length", "rope.dimension_count"):
        if (given := value(reader, f"{architecture}.{key}")) not in (None, head_dim):
            raise LofitError(f"{file}: {architecture}.{key}: got {given}; expected {head_dim}, the size of a head")
    window = value(reader, f"{architecture}.attention.sliding_window")
    if window is not None and getattr(config, "sliding_window", None) != window:
        raise LofitError(f"{file}: {architecture}.attention.sliding_window: got {window}; expected a file without it")
