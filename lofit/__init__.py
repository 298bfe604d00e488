"""LoFiT: adapt a language model by editing a handful of its attention heads.

The public names load on first use, so that a stage which needs no torch does not pay for importing it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lofit.adapter import HeadAdapter
    from lofit.errors import LofitError
    from lofit.export.merge import merge
    from lofit.heads import HeadLayout, head_layout

__all__ = ["HeadAdapter", "HeadLayout", "LofitError", "head_layout", "merge"]

_HOME = {
    "HeadAdapter": "lofit.adapter",
    "HeadLayout": "lofit.heads",
    "LofitError": "lofit.errors",
    "head_layout": "lofit.heads",
    "merge": "lofit.export.merge",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'lofit' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
