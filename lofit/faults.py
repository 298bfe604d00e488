"""What pydantic finds wrong with a block, in words for users."""

from typing import Any, get_args, get_origin

from lofit.blocks import DEVICE_PATTERN, NAME_PATTERN, Block

ALLOWED = {
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
    DEVICE_PATTERN: "auto, cpu, mps, or cuda or xpu, with :N or without",
}


def describe(fault: Any, root: type[Block]) -> str:
    """One fault of pydantic's as "key: met VALUE; allowed: WHAT"."""
    key = ".".join(str(part) for part in fault["loc"] if part != "[key]") or "the whole file"
    kind, context = fault["type"], fault.get("ctx", {})
    if kind == "extra_forbidden":
        return f"{key}: unknown key; allowed: {', '.join(siblings(fault['loc'], root))}"
    if kind == "missing":
        return (
            f"{key}: missing; allowed: a block with at least {', '.join(siblings(fault['loc'], root, required=True))}"
        )
    allowed = ALLOWED.get(kind) or fault["msg"].removeprefix("Input should be ")
    if kind == "string_pattern_mismatch":
        allowed = PATTERNS.get(context["pattern"], "a text that is not blank")
    if kind == "float_type" and "e" in str(fault["input"]).lower():
        allowed = "a number (write 0.001, not 1e-3)"
    if kind == "literal_error":
        allowed = context["expected"]
    return f"{key}: met {fault['input']!r}; allowed: {allowed}"


def siblings(place: tuple, root: Any, *, required: bool = False) -> list[str]:
    """The keys that stand beside the last one of `place`, a path into `root`: all of them, or those without default."""
    block = root
    for part in place[:-1]:
        # A dict of named blocks (tasks, methods) or a list: any name or place leads to the same kind of block.
        block = get_args(block)[-1] if get_origin(block) in (dict, list) else block.model_fields[part].annotation
    return [name for name, field in block.model_fields.items() if field.is_required() or not required]
