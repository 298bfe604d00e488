"""Stage train_scales: step 1, a scaling vector for every head of the model."""

from pathlib import Path

from lofit.files import write_whole
from lofit.heads import HeadLayout
from lofit.selection import scale_norms, write_norms
from stages import workspace


def train_scales(task: workspace.Task, seed: workspace.Seed) -> None:
    settings = workspace.read_params().task(task).train_scales
    workspace.share_work("train_scales")
    where = workspace.place(task, seed)
    with workspace.training_run("train_scales", task, seed) as run:
        from safetensors.torch import save

        from lofit.adapter import HeadAdapter
        from lofit.training import fresh_vectors
        from stages.vectors import train_vectors

        def make(layout: HeadLayout, fold: int) -> HeadAdapter:
            return HeadAdapter(layout.grid(), scales=fresh_vectors(layout.size, layout.head_dim, seed=seed))

        def write(adapters: dict[int, HeadAdapter]) -> list[Path]:
            scales = {}  # by fold, layers x heads x head_dim
            for fold, adapter in adapters.items():
                heads = 1 + max(head for _, head in adapter.heads)
                scales[fold] = adapter.scales.detach().cpu().unflatten(0, (-1, heads)).contiguous()
            norms = {fold: scale_norms(values.numpy()) for fold, values in scales.items()}
            write_norms(where.tables / "scale_norms.csv", norms)
            file = where.artifacts / "scales.safetensors"
            write_whole(file, save({workspace.scales_name(fold): values for fold, values in scales.items()}))
            return [file]

        train_vectors("train_scales", (task, seed), run, settings, make, write, l1=settings.l1)


if __name__ == "__main__":
    workspace.main(train_scales)
