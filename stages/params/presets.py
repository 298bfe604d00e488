"""Presets: small files that list only what differs from params.yaml, written into it on request."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from lofit.errors import LofitError
from lofit.storage.files import write_whole
from stages.params.load import load, validate
from stages.params.yaml_file import load_with, parse_yaml, read_text

MORE = "+"
"""Behind a key: the list is added to, not replaced."""

LIKE = "like"
"""A key whose value names a block of the same parent, of which a copy is to be changed."""

SLOT = {CommentedMap: 2, CommentedSeq: 0}
"""Where ruamel keeps the comment behind a value, in its entry for the value's key."""


def find(name: str, folder: Path) -> Path:
    """The file of the preset called `name`: a path, or the name of one in `folder`.

    Raises:
        LofitError: there is none.
    """
    for file in (Path(name), folder / f"{name}.yaml"):
        if file.is_file():
            return file
    raise LofitError(f"preset: got {name!r}; expected {', '.join([*descriptions(folder), 'or a file'])}")


def descriptions(folder: Path) -> dict[str, str]:
    """The presets in `folder` by name, each with the first comment line of its file.

    Raises:
        LofitError: there is no such folder.
    """
    if not folder.is_dir():
        raise LofitError(f"{folder}: no such folder; expected the folder of presets; run from the project's root")
    files = sorted(folder.rglob("*.yaml"), key=lambda file: (len(file.parts), file))
    lines = {
        file.relative_to(folder).with_suffix("").as_posix(): file.read_text(encoding="utf-8").splitlines()
        for file in files
    }
    return {
        name: next((line.lstrip("# ") for line in text if line.startswith("#")), "") for name, text in lines.items()
    }


def apply(params: Path, preset: Path) -> list[str]:
    """Merge `preset` into `params`, comments kept, and say what has changed, as `key: old -> new`.

    Blocks are merged key by key; anything else is replaced, lists as a whole; keys that `params` lacks are added. A key
    `rows+` adds to the list `rows`. A block with `like: other` begins as a copy of the block `other` there. Nothing
    is written where the result would not be valid.

    Raises:
        LofitError: one of the files is missing or faulty, or what they make together is.
    """
    load(params)
    yaml = round_trip()
    merged = parse(yaml, params)
    old = leaves(merged)
    merge(merged, parse(yaml, preset))
    text = StringIO()
    yaml.dump(merged, text)
    name = f"{params} with {preset}"
    validate(parse_yaml(text.getvalue(), name=name), name=name)
    new = leaves(merged)
    changed = [key for key in new if key not in old or old[key] != new[key]]
    if changed:
        write_whole(params, text.getvalue())
    return [f"{key}: {shown(old[key]) if key in old else '(unset)'} -> {shown(new[key])}" for key in changed]


def round_trip() -> YAML:
    """Reads and writes YAML in the style of params.yaml, comments and all."""
    yaml = YAML()
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.preserve_quotes = True
    yaml.width = 10_000
    # The default writes nothing at all.
    yaml.representer.add_representer(
        type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    return yaml


def parse(yaml: YAML, file: Path) -> CommentedMap:
    """The block of keys that a YAML file holds."""
    text = read_text(file)
    # What keeps comments lets pass some of what DVC refuses.
    parse_yaml(text, name=str(file))
    content = load_with(yaml, text, name=str(file))
    if not isinstance(content, CommentedMap):
        raise LofitError(f"{file}: got {content!r}; expected a block of keys, those of params.yaml that differ")
    return content


def merge(block: CommentedMap, changes: CommentedMap, place: str = "") -> None:
    """Put `changes` into `block`, key by key; `place` is where the block stands, for messages."""
    tail = take_comment(block)
    for name, change in changes.items():
        key = name.removesuffix(MORE)
        old = block.get(key)
        value = extended(old, change, place + name) if name != key else change
        if isinstance(value, CommentedMap) and LIKE in value:
            value, old = begun_like(block, key, value, place + key), None
        if isinstance(value, CommentedMap) and isinstance(old, CommentedMap):
            merge(old, value, f"{place}{key}.")
        else:
            between = take_comment(old)
            if isinstance(value, CommentedMap | CommentedSeq) and value:
                value.fa.set_block_style()
            block[key] = value
            put_comment(value, between)
    put_comment(block, tail)


def extended(old: Any, more: Any, place: str) -> Any:
    """A list with entries that it lacks."""
    if not isinstance(old, list) or not isinstance(more, list):
        raise LofitError(f"{place}: got {more!r}; expected a list to add to a list")
    return CommentedSeq([*old, *(entry for entry in more if entry not in old)])


def begun_like(block: CommentedMap, key: str, changes: CommentedMap, place: str) -> CommentedMap:
    """The block that `changes` begins as a copy of, with the changes; the block itself where it is there already."""
    source = changes[LIKE]
    begin = block.get(key, block.get(source))
    if not isinstance(begin, CommentedMap):
        raise LofitError(f"{place}.{LIKE}: got {source!r}; expected {', '.join(map(str, block))}")
    made = bare(begin)
    merge(made, CommentedMap({name: value for name, value in changes.items() if name != LIKE}), f"{place}.")
    return made


def bare(node: Any) -> Any:
    """A copy without comments, which speak of the original."""
    if isinstance(node, dict):
        return CommentedMap({key: bare(value) for key, value in node.items()})
    return CommentedSeq(map(bare, node)) if isinstance(node, list) else node


def last_entry(node: Any) -> tuple[Any, Any] | None:
    """The innermost block or list that `node` ends with and the key of its last value; None for one on a line."""
    if not isinstance(node, CommentedMap | CommentedSeq) or not node or node.fa.flow_style():
        return None
    key = len(node) - 1 if isinstance(node, CommentedSeq) else next(reversed(node))
    return last_entry(node[key]) or (node, key)


def take_comment(node: Any) -> Any:
    """Take off what follows `node`: ruamel hangs it on the last value inside, the next block's heading comment too."""
    if (place := last_entry(node)) is None:
        return None
    entry, slot = place[0].ca.items.get(place[1]), SLOT[type(place[0])]
    # Beside it may be what stands above the key.
    comment = entry and entry[slot]
    if entry:
        entry[slot] = None
    return comment


def put_comment(node: Any, comment: Any) -> None:
    """Hang a comment after `node` again."""
    if comment is not None and (place := last_entry(node)) is not None:
        place[0].ca.items.setdefault(place[1], [None, None, None, None])[SLOT[type(place[0])]] = comment


def leaves(block: dict, prefix: str = "") -> dict[str, Any]:
    """All values that are no blocks, by their dotted keys."""
    found: dict[str, Any] = {}
    for key, value in block.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return found


def shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
