"""YAML files, read with suspicion."""

from pathlib import Path
from typing import Any

import yaml

from lofit.errors import LofitError


class UniqueKeyLoader(yaml.SafeLoader):
    """YAML as usual, but a key that stands twice is a fault instead of the last one winning."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [key.value for key, _ in node.value]
        for key, _ in node.value:
            if keys.count(key.value) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands twice", key.start_mark)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str) -> Any:
    """YAML as plain values; a yaml.YAMLError where it is none."""
    return yaml.load(text, Loader=UniqueKeyLoader)


def read_yaml(file: Path) -> Any:
    """The content of a YAML file as plain values.

    Raises:
        LofitError: there is no such file, or it is not YAML in UTF-8.
    """
    try:
        return parse_yaml(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise LofitError(f"{file}: {error.strerror}; expected a file; run from the project's root") from None
    except UnicodeDecodeError as error:
        raise LofitError(f"{file}: byte {error.start} is not UTF-8") from None
    except yaml.YAMLError as error:
        raise LofitError(f"{file}: {' '.join(str(error).split())}") from None
