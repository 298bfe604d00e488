"""The tokenizer of a GGUF file, made by transformers, mended and compared with the file."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lofit.errors import LofitError

if TYPE_CHECKING:
    from gguf import GGUFReader
    from transformers import PreTrainedTokenizerBase

WHOLE = (3, 4)
"""Types of tokens that stand for themselves in a text, whole: control tokens and user-defined ones."""

SPLITS = ("gpt-2", "smollm", "llama-bpe", "llama3", "llama-v3", "falcon3", "qwen2", "deepseek-r1-qwen")
"""Ways to split a text before merging that are known here, by llama.cpp's names."""

PROBE = "  two  words\n\n\tand 1,2345 don't I'LL x_y -> \u00f1and\u00fa \u65e5\u672c\n "
"""A text in which ways to split differ."""

SPECIAL = {
    "bos_token_id": "bos_token_id",
    "eos_token_id": "eos_token_id",
    "pad_token_id": "padding_token_id",
    "unk_token_id": "unknown_token_id",
}


def convert_tokenizer(file: Path, reader: "GGUFReader", alone: Path, folder: Path) -> None:
    """Write the tokenizer of a GGUF file, its chat template with it, into the folder of its model.

    Args:
        alone: the file in a folder of its own.

    Raises:
        LofitError: it is of a kind that is not known here, or what was written is not what the file states.
    """
    from transformers import AutoTokenizer

    check_kind(file, reader)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(alone.parent), gguf_file=alone.name, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LofitError(f"{file}: its tokenizer cannot be read: {' '.join(str(error).split())}") from None
    made = mended(tokenizer, reader)
    made.save_pretrained(folder)
    back = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    if back(PROBE)["input_ids"] != made(PROBE)["input_ids"]:
        # The class that the architecture has by default may split texts its own way.
        raise LofitError(f"{file}: {type(back).__name__} splits texts in another way; expected the way of the file")
    check_tokenizer(file, reader, back)


def stated(reader: "GGUFReader", key: str) -> Any:
    """What the file says of its tokenizer; None where it says nothing."""
    field = reader.get_field(f"tokenizer.ggml.{key}")
    return None if field is None else field.contents()


def check_kind(file: Path, reader: "GGUFReader") -> None:
    """Refuse a tokenizer that would be built by guessing."""
    kind, split = stated(reader, "model"), stated(reader, "pre")
    if kind not in ("gpt2", "llama"):
        raise LofitError(f"{file}: tokenizer.ggml.model: got {kind!r}; expected gpt2 or llama")
    if kind == "gpt2" and split not in SPLITS:
        raise LofitError(f"{file}: tokenizer.ggml.pre: got {split!r}; expected {', '.join(SPLITS)}")
    if stated(reader, "add_eos_token"):
        raise LofitError(f"{file}: tokenizer.ggml.add_eos_token: got true; expected false")


def mended(tokenizer: "PreTrainedTokenizerBase", reader: "GGUFReader") -> "PreTrainedTokenizerBase":
    """A tokenizer without tokens that the file does not have, and with digits that stand alone where it says so.

    transformers adds the unknown token of GPT-2 where a file names none, and does not know how SmolLM splits a text.
    """
    from tokenizers import Tokenizer, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens = stated(reader, "tokens")
    definition = json.loads(tokenizer.backend_tokenizer.to_str())
    definition["added_tokens"] = [token for token in definition["added_tokens"] if token["id"] < len(tokens)]
    if definition["model"].get("unk_token") not in tokens:
        definition["model"]["unk_token"] = None
    backend = Tokenizer.from_str(json.dumps(definition))
    if stated(reader, "pre") == "smollm":
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    named = {name.removesuffix("_id"): stated(reader, key) for name, key in SPECIAL.items()}
    template = reader.get_field("tokenizer.chat_template")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=template and template.contents(),
        clean_up_tokenization_spaces=False,
        **{name: tokens[place] for name, place in named.items() if place is not None},
    )


def check_tokenizer(file: Path, reader: "GGUFReader", tokenizer: "PreTrainedTokenizerBase") -> None:
    """Compare a tokenizer with what the file states: its tokens, those that stay whole, the special ones."""
    tokens, types = stated(reader, "tokens"), stated(reader, "token_type") or []
    if len(tokenizer) != len(tokens):
        raise LofitError(f"{file}: got a tokenizer of {len(tokenizer)} tokens; expected {len(tokens)}")
    whole = {place: token for place, (token, kind) in enumerate(zip(tokens, types, strict=False)) if kind in WHOLE}
    for place, token in whole.items():
        if tokenizer(token, add_special_tokens=False)["input_ids"] != [place]:
            raise LofitError(f"{file}: {token!r} is cut into pieces; expected token {place}")
    for name, key in SPECIAL.items():
        given, expected = getattr(tokenizer, name), stated(reader, key)
        if expected is not None and given != expected:
            raise LofitError(f"{file}: tokenizer.ggml.{key}: got {given}; expected {expected}")
    begins = tokenizer("a")["input_ids"][:1] == [stated(reader, "bos_token_id")]
    adds = stated(reader, "add_bos_token")
    if begins != (stated(reader, "model") == "llama" if adds is None else adds):
        raise LofitError(f"{file}: tokenizer.ggml.add_bos_token: got {begins}; expected {adds}")
    text = "  two  words\n\tand 1,234"
    # A decoder that cleans up, or a space that is put in front, would change texts.
    if (back := tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"])) != text:
        raise LofitError(f"{file}: {text!r} comes back as {back!r}; expected the same text")
    spaced = stated(reader, "add_space_prefix")
    first = tokenizer.convert_ids_to_tokens(tokenizer("a", add_special_tokens=False)["input_ids"])[0]
    if spaced is not None and first.startswith("\u2581") != bool(spaced):
        raise LofitError(f"{file}: tokenizer.ggml.add_space_prefix: got {not spaced}; expected {spaced}")
