"""What the folder of a HeadAdapter says of it, in this version of the format and the older ones."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from lofit.adapters.folder import Shape
from lofit.errors import LofitError
from lofit.models.layout import Head
from lofit.settings import Settings

Index = Annotated[int, Field(ge=0)]


class HeadPlace(Settings):
    """One entry of the list of heads."""

    layer: Index
    head: Index


def json_heads(heads: Sequence[Head]) -> list[dict[str, int]]:
    """`heads` as a folder lists them: by layer and head."""
    return [{"layer": layer, "head": head} for layer, head in sorted(heads)]


class HeadShape(Shape):
    """The content of config.json. The rows of the tensors are in the order of `heads`."""

    kind: Literal["heads"] = "heads"
    head_dim: Annotated[int, Field(ge=1)] | None
    vectors: list[Literal["scales", "offsets"]]
    heads: list[HeadPlace]

    @classmethod
    def upgraded(cls, config: dict[str, Any]) -> dict[str, Any]:
        """Version 1 listed heads as pairs, and what it knew of the training as keys of its own."""
        if config["format_version"] != 1:
            return config
        pairs = config.get("heads")
        if isinstance(pairs, list):
            pairs = [
                {"layer": pair[0], "head": pair[1]} if isinstance(pair, list) and len(pair) == 2 else pair
                for pair in pairs
            ]
        names = ("base_model", "base_revision", "head_dim", "vectors")
        known = {name: config[name] for name in names if name in config}
        training = {key: value for key, value in config.items() if key not in {*known, "format_version", "heads"}}
        return {"format_version": 1, "head_dim": None, "vectors": None, **known, "heads": pairs, "training": training}

    def check(self) -> None:
        for place in self.heads:
            for part, index, size in (("layer", place.layer, self.num_layers), ("head", place.head, self.num_heads)):
                if size is not None and index >= size:
                    raise LofitError(f"heads: got {part} {index}; expected 0 to {size - 1}, as num_{part}s says")
