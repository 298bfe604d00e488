"""Settings: small strict blocks of values, and what is wrong with one in words for users.

What a user can set stands in a subclass of `Settings` next to the code that reads it, with its meaning and its bounds.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Self, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lofit.errors import LofitError

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_]*$"
DEVICE_PATTERN = r"^(auto|cpu|mps|(cuda|xpu)(:[0-9]+)?)$"
GGUF_PATTERN = r"^\S.*\.gguf$"
RUN_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
RunName = Annotated[str, Field(pattern=RUN_PATTERN)]
Text = Annotated[str, Field(pattern=r"\S")]
Device = Annotated[str, Field(pattern=DEVICE_PATTERN)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Ratio = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]

EXPECTED = {
    "missing": "a value; the key is missing",
    "float_type": "a number",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "string_type": "a text",
    "list_type": "a list",
    "dict_type": "a block of keys",
    "model_type": "a block of keys",
    "too_short": "at least one entry",
    "finite_number": "a finite number",
}
PATTERNS = {
    NAME_PATTERN: "letters, digits and _ only",
    RUN_PATTERN: "letters, digits, _ and - only",
    GGUF_PATTERN: "the name of a .gguf file",
    DEVICE_PATTERN: "auto, cpu, mps, or cuda or xpu, with :N or without",
}


class Settings(BaseModel):
    """A block of settings: no unknown key, no silent conversion, no change once made."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Validate plain values.

        Raises:
            LofitError: one line per fault, as "KEY: got VALUE; expected WHAT".
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise LofitError("\n".join(faults_in(error, cls))) from None


def faults_in(error: ValidationError, root: type[Settings]) -> list[str]:
    """All faults that validating a `root` has found, a line each."""
    return [describe(fault, root) for fault in error.errors()]


def describe(fault: Any, root: type[Settings]) -> str:
    """One fault of pydantic's as "KEY: got VALUE; expected WHAT"."""
    key = ".".join(str(part) for part in fault["loc"] if part != "[key]") or "the whole file"
    kind, context = fault["type"], fault.get("ctx", {})
    if kind == "extra_forbidden":
        return f"{key}: unknown key; expected {', '.join(siblings(fault['loc'], root)) or 'no key at all'}"
    if kind == "fault":
        # A validator that has looked into a block says itself which of its keys is wrong.
        return key + context["fault"]
    if kind == "missing":
        needed = siblings(fault["loc"], root, required=True)
        return f"{key}: missing; expected a block with at least {', '.join(needed)}"
    expected = EXPECTED.get(kind) or fault["msg"].removeprefix("Input should be ")
    if kind == "string_pattern_mismatch":
        expected = PATTERNS.get(context["pattern"], "a text that is not blank")
    if kind == "literal_error":
        expected = context["expected"]
    return f"{key}: got {fault['input']!r}; expected {expected}"


def siblings(place: tuple, root: Any, *, required: bool = False) -> list[str]:
    """The keys that stand next to the last one of `place`, a path into `root`: all, or those without default."""
    block = root
    for part in place[:-1]:
        # A dict of named blocks (tasks, methods) or a list: any name or place leads to the same kind of block.
        block = get_args(block)[-1] if get_origin(block) in (dict, list) else block.model_fields[part].annotation
        if type(None) in get_args(block):
            # An optional block.
            block = get_args(block)[0]
    return [name for name, field in block.model_fields.items() if field.is_required() or not required]
