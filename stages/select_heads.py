"""Stage select_heads: rank the heads of the model and keep the first K."""

import sys

from safetensors.numpy import load_file

from lofit.errors import LofitError
from lofit.selection import random_heads, scale_norms, silent_heads, top_heads, write_heads
from stages import workspace


def select_heads(task: workspace.Task, seed: workspace.Seed, method: workspace.Method) -> None:
    params = workspace.read_params()
    block = params.cell(task, method).select_heads
    where = workspace.place(task, seed, method)
    norms = scale_norms(load_file(workspace.place(task, seed).artifacts / "scales.safetensors")["scales"])
    if block.k > norms.size:
        key = f"{workspace.PARAMS}: tasks.{task}.select_heads.k for method {method}"
        raise LofitError(f"{key}: met {block.k}; allowed: 1 to {norms.size}, the heads of {params.model.name}")
    if params.methods[method].kind == "base":
        heads = []
    elif block.ranking == "random":
        heads = random_heads(norms, block.k, task=task, seed=seed, draw=block.draw)
    else:
        heads = top_heads(norms, block.k)
        if silent := silent_heads(norms, block.k):
            print(
                f"warning: {silent} of the {block.k} heads have scales of almost nothing and are ranked by noise; "
                f"lower tasks.{task}.train_scales.l1 or select_heads.k",
                file=sys.stderr,
            )
    # In the model's order and without scores, so that other scales which lead to the same heads change nothing.
    write_heads(where.tables / "heads.csv", sorted((ranked.layer, ranked.head) for ranked in heads))


if __name__ == "__main__":
    workspace.main(select_heads)
