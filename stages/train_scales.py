"""Stage train_scales: step 1, a scaling vector for every head of the model."""

from pathlib import Path

from safetensors.torch import save

from lofit.adapter import HeadAdapter
from lofit.files import write_whole
from lofit.heads import HeadLayout
from lofit.selection import scale_norms, write_norms
from lofit.training import fresh_vectors
from stages import workspace
from stages.vectors import train_vectors


def train_scales(task: workspace.Task, seed: workspace.Seed) -> None:
    settings = workspace.read_params().task(task).train_scales
    where = workspace.place(task, seed)

    def make(layout: HeadLayout) -> HeadAdapter:
        return HeadAdapter(layout.grid(), scales=fresh_vectors(layout.size, layout.head_dim, seed=seed))

    def write(adapter: HeadAdapter) -> Path:
        heads = 1 + max(head for _, head in adapter.heads)
        scales = adapter.scales.detach().cpu().unflatten(0, (-1, heads))  # layers x heads x head_dim
        write_norms(where.tables / "scale_norms.csv", scale_norms(scales.numpy()))
        file = where.artifacts / "scales.safetensors"
        write_whole(file, save({"scales": scales.contiguous()}))
        return file

    train_vectors("train_scales", (task, seed), settings, make, write, l1=settings.l1)


if __name__ == "__main__":
    workspace.main(train_scales)
