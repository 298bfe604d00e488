"""YAML files, read with suspicion, and as DVC reads them: YAML 1.2, where 1e-3 is a number and `on` is a text."""

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from lofit.errors import LofitError


def parse_yaml(text: str, *, name: str) -> Any:
    """YAML as plain values.

    Raises:
        LofitError: it is not YAML, or a key stands twice; one line that begins with `name`.
    """
    # As in dvc.utils.serialize: DVC and the stages must see the same values.
    return load_with(YAML(typ="safe"), text, name=name)


def load_with(reader: YAML, text: str, *, name: str) -> Any:
    """What `reader` makes of a text; faults are those of `parse_yaml`."""
    try:
        return reader.load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        what = ", ".join(part for part in (error.context, error.problem) if part)
        raise LofitError(f"{name}: {place}{one_line(what)}") from None
    except (YAMLError, ValueError, LookupError) as error:
        # What is no YAMLError comes from a value that only looks like one of its kind: the date 2024-13-01.
        raise LofitError(f"{name}: {one_line(error)}") from None


def read_yaml(file: Path) -> Any:
    """The content of a YAML file as plain values.

    Raises:
        LofitError: there is no such file, or it is not YAML in UTF-8.
    """
    return parse_yaml(read_text(file), name=str(file))


def read_text(file: Path) -> str:
    """The text of a file.

    Raises:
        LofitError: there is no such file, or it is not in UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise LofitError(f"{file}: {error.strerror}; expected a file; run from the project's root") from None
    except UnicodeDecodeError as error:
        raise LofitError(f"{file}: byte {error.start} is not UTF-8") from None


def one_line(message: object) -> str:
    return " ".join(str(message).split())
