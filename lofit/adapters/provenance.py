"""Where the vectors of an adapter come from, as its folder says it."""

from importlib.metadata import version
from typing import Annotated, Any, Self

from pydantic import Field

from lofit.errors import LofitError
from lofit.models.layout import HeadLayout
from lofit.settings import Count, Settings

LIBRARIES = ("lofit", "torch", "transformers")


class Provenance(Settings):
    """What is known of an adapter's making; nothing of it is needed to use the adapter."""

    base_model: str | None = None
    """Hub id or folder, or another name that its maker gave it."""

    base_revision: str | None = None
    """Commit on the hub, or SHA-256 over the files of a folder."""

    target_module: str | None = None
    """The end of the paths of the edited projections, the same in every layer: `self_attn.o_proj`."""

    num_layers: Count | None = None
    """Layers with heads, which (layer, head) counts."""

    num_heads: Count | None = None
    """Heads in each of them."""

    training: dict[str, Any] = Field(default_factory=dict)
    """Task, data, seed and parameters."""

    metrics: dict[str, Annotated[float, Field(allow_inf_nan=False)]] = Field(default_factory=dict)
    """Scores, as `split/metric`."""

    libraries: dict[str, str] = Field(default_factory=dict)
    """Versions that it was made with."""

    @property
    def commit(self) -> str | None:
        """The base model's commit on the hub; None where its revision is the hash of a folder, or unknown."""
        return self.base_revision if self.base_revision and len(self.base_revision) == 40 else None

    def with_metrics(self, metrics: dict[str, float]) -> "Provenance":
        return Provenance(**{**self.model_dump(), "metrics": metrics})

    @classmethod
    def made_now(cls, name: str | None, revision: str | None, layout: HeadLayout, *, training: dict[str, Any]) -> Self:
        """The provenance of an adapter made just now on the model called `name`."""
        return cls(
            base_model=name,
            base_revision=revision,
            target_module=common_end(layout.projections),
            num_layers=layout.num_layers,
            num_heads=layout.num_heads,
            training=training,
            libraries={name: version(name) for name in LIBRARIES},
        )

    def check_fits(self, layout: HeadLayout) -> None:
        """A LofitError where (layer, head) cannot mean in this model what it meant in training."""
        for name, made_for, got in (
            ("layers with heads", self.num_layers, layout.num_layers),
            ("heads per layer", self.num_heads, layout.num_heads),
        ):
            if made_for not in (None, got):
                raise LofitError(f"adapter: made for {made_for} {name}, got {got}; expected the model it was made for")
        if self.target_module and not f".{layout.projections[0]}".endswith(f".{self.target_module}"):
            raise LofitError(
                f"adapter: made for {self.target_module}, got {layout.projections[0]}; expected the model that "
                "it was made for"
            )

    def joined(self, other: "Provenance") -> "Provenance":
        """The provenance of a sum, with what both agree on; a LofitError where they are for models of other shapes."""
        both = {
            name: {value for value in (getattr(self, name), getattr(other, name)) if value is not None}
            for name in ("base_model", "base_revision", "target_module", "num_layers", "num_heads")
        }
        for name in ("target_module", "num_layers", "num_heads"):
            if len(both[name]) > 1:
                raise LofitError(f"got adapters with {name} {sorted(both[name])}; expected adapters for one model")
        agreed = {name: min(values) if len(values) == 1 else None for name, values in both.items()}
        if agreed["base_model"] is None:
            agreed["base_revision"] = None
        agreed["libraries"] = dict(sorted(self.libraries.items() & other.libraries.items()))
        training = {"sum_of": [self.training, other.training]}
        return self.model_copy(update={**agreed, "training": training, "metrics": {}})


def common_end(paths: tuple[str, ...]) -> str:
    """The part of dotted paths after the number of the layer: `self_attn.o_proj`."""
    parts = paths[0].split(".")
    shared = 1
    while shared < len(parts) and all(path.split(".")[-shared - 1 :] == parts[-shared - 1 :] for path in paths):
        shared += 1
    # A model of one layer shares the whole path with itself.
    tail = parts[-shared:]
    numbers = [place for place, part in enumerate(tail) if part.isdecimal()]
    return ".".join(tail[numbers[-1] + 1 :] if numbers else tail)
