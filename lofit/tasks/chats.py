"""Chats in a user's data: lists of messages, as chat models are trained on."""

from collections.abc import Mapping
from typing import Any

from lofit.errors import LofitError
from lofit.tasks.record import Turn
from lofit.tasks.source import Place

ROLES = ("system", "user", "assistant")
ANSWERS = ("completion", "chosen", "rejected")


def is_chat(value: Any) -> bool:
    """Whether a field holds messages."""
    return isinstance(value, list) and bool(value) and all(isinstance(turn, Mapping) for turn in value)


def unpack(place: Place, row: Mapping[str, Any]) -> tuple[tuple[Turn, ...], dict[str, Any]]:
    """The turns before a row's answer, and the row with its answers as plain texts.

    Known are `messages`, which end with the answer; and `prompt`, `completion`, `chosen` and `rejected` as lists of
    messages, of which the answers may begin with the turns of the prompt.

    Args:
        row: by our own names for its fields.

    Returns:
        No turns where the row's prompt is a text.

    Raises:
        LofitError: something is no message, a chat does not end with the assistant's, or two begin otherwise.
    """
    plain = dict(row)
    asked = turns_of(place, "prompt", plain.pop("prompt")) if is_chat(row.get("prompt")) else ()
    if row.get("messages") is not None:
        if not is_chat(row["messages"]):
            raise LofitError(f"{place}: field 'messages' is {row['messages']!r}; expected messages of role and content")
        asked, plain["completion"] = last_answer(place, "messages", plain.pop("messages"))
    begun: dict[str, tuple[Turn, ...]] = {}
    for name in ANSWERS:
        if is_chat(row.get(name)):
            begun[name], plain[name] = last_answer(place, name, row[name])
    for name, turns in begun.items():
        first = next(iter(begun))
        if turns != begun[first]:
            raise LofitError(
                f"{place}: {name} begins otherwise than {first}; expected the same turns before the answer"
            )
    before = next(iter(begun.values()), ())
    # The prompt may stand in both places.
    return (before if before[: len(asked)] == asked else (*asked, *before)), plain


def last_answer(place: Place, name: str, value: Any) -> tuple[tuple[Turn, ...], str]:
    """The turns of a chat before its last one, and the text of that, which is the assistant's."""
    *before, last = turns_of(place, name, value)
    if last["role"] != "assistant":
        raise LofitError(f"{place}: {name} ends with a turn of {last['role']}; expected the assistant's answer")
    return tuple(before), last["content"]


def turns_of(place: Place, name: str, value: list[Any]) -> tuple[Turn, ...]:
    """Messages with a known role and a text."""
    turns = []
    for number, turn in enumerate(value, 1):
        role, content = turn.get("role"), turn.get("content")
        if role not in ROLES or not isinstance(content, str):
            raise LofitError(
                f"{place}: {name}, turn {number}: got role {role!r} and a {type(content).__name__}; "
                f"expected role ({', '.join(ROLES)}) and content, a text"
            )
        turns.append({"role": role, "content": content})
    return tuple(turns)
