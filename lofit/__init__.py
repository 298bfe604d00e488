"""LoFiT: adapt a language model by editing a handful of its attention heads.

The public names load on first use, so that a command which needs no torch answers at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lofit.adapters.heads import HeadAdapter
    from lofit.adapters.kinds import load_adapter
    from lofit.errors import LofitError
    from lofit.export.merge import merge
    from lofit.fitting.fit import fit
    from lofit.fitting.rank_heads import rank_heads
    from lofit.fitting.select_heads import select_heads
    from lofit.fitting.train_scales import train_scales
    from lofit.fitting.tune_bias import tune_bias
    from lofit.models.layout import HeadLayout, head_layout
    from lofit.models.named import load_model
    from lofit.scoring.score import score
    from lofit.tasks.record import Record

__all__ = [
    "HeadAdapter",
    "HeadLayout",
    "LofitError",
    "Record",
    "fit",
    "head_layout",
    "load_adapter",
    "load_model",
    "merge",
    "rank_heads",
    "score",
    "select_heads",
    "train_scales",
    "tune_bias",
]

_HOME = {
    "HeadAdapter": "lofit.adapters.heads",
    "HeadLayout": "lofit.models.layout",
    "LofitError": "lofit.errors",
    "Record": "lofit.tasks.record",
    "fit": "lofit.fitting.fit",
    "head_layout": "lofit.models.layout",
    "load_adapter": "lofit.adapters.kinds",
    "load_model": "lofit.models.named",
    "merge": "lofit.export.merge",
    "rank_heads": "lofit.fitting.rank_heads",
    "score": "lofit.scoring.score",
    "select_heads": "lofit.fitting.select_heads",
    "train_scales": "lofit.fitting.train_scales",
    "tune_bias": "lofit.fitting.tune_bias",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'lofit' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
