"""Chats as prompts, by the template that comes with a tokenizer."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lofit.errors import LofitError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def chat_prompt(
    tokenizer: "PreTrainedTokenizerBase", turns: Sequence[Mapping[str, str]], options: Mapping[str, Any] | None = None
) -> str:
    """A chat as text, up to where the assistant's answer begins.

    Args:
        turns: messages of `role` (system, user or assistant) and `content`.
        options: further variables of the template, such as `enable_thinking`.

    Raises:
        LofitError: the tokenizer has no chat template, or its template does not take these turns.
    """
    if not tokenizer.chat_template:
        raise LofitError(f"{type(tokenizer).__name__}: no chat template; expected one, for chat prompts")
    try:
        return str(
            tokenizer.apply_chat_template(
                [dict(turn) for turn in turns], tokenize=False, add_generation_prompt=True, **(options or {})
            )
        )
    except Exception as error:
        # A template is a program that comes with the checkpoint: it may raise what it likes.
        said = " ".join(str(error).split()) or type(error).__name__
        roles = ", ".join(turn["role"] for turn in turns)
        raise LofitError(f"chat template: {said}; expected one that takes the turns {roles}") from None
