"""Is every K in params.yaml one that the model has?"""

from lofit.errors import LofitError
from lofit.fitting.share import number_of_heads
from stages import paths
from stages.params import effective
from stages.params.schema import Params


def check_heads(params: Params, size: int) -> None:
    """Refuse a K beyond the `size` heads of the model, in any cell of `run`.

    Raises:
        LofitError: one line per key.
    """
    faults = [
        f"{paths.PARAMS}: {effective.block_key(params, task, row, 'select_heads', 'k')}: got {k}; expected 1 to "
        f"{size}, the heads of {params.model.name}"
        for task in params.run.tasks
        for row in params.run.lofit_rows
        if number_of_heads(k := effective.selection(params, task, row).k, size) > size
    ]
    if faults:
        raise LofitError("\n".join(dict.fromkeys(faults)))
