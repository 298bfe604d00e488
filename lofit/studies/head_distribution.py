"""Where the tuned heads lie (LoFiT, Figure 3): how many of them in each layer, and in each quarter of the depth."""

import numpy as np

from lofit.report.evidence import Evidence, Study, StudySettings
from lofit.report.study_plots import layer_bars
from lofit.settings import Name

TITLE = "Where the tuned heads lie"

WORDS = """Heads in each layer, as a mean over {parts}. Dotted lines part the quarters of the depth, first to last.
Heads drawn at random would lie in all quarters alike, K/4 in each."""


class Settings(StudySettings):
    rows: list[Name] = []  # noqa: RUF012
    """Rows of LoFiT; by default all whose heads step 1 has chosen."""


def study(evidence: Evidence, settings: Settings) -> Study:
    layers = evidence.shape[0]
    panels: dict[str, dict[str, np.ndarray]] = {}
    table = []
    for task in evidence.tasks:
        for row in settings.rows or evidence.rows_by_step_1():
            sets = list(evidence.heads(task, row).values())
            if not sets:
                continue
            layer_of = [[layer for layer, _ in heads] for heads in sets]
            counts = np.mean([np.bincount(of, minlength=layers) for of in layer_of], axis=0)
            panels.setdefault(task, {})[row] = counts
            in_quarter = [sum(counts[layer] for layer in range(layers) if 4 * layer // layers == q) for q in range(4)]
            table.append(
                {
                    "task": task,
                    "row": row,
                    "k": len(sets[0]),
                    **{f"quarter {q + 1}": float(count) for q, count in enumerate(in_quarter)},
                    "layers with heads": int((counts > 0).sum()),
                    "mean layer": float((counts * np.arange(layers)).sum() / counts.sum()),
                }
            )
    seeds = ", ".join(map(str, evidence.seeds))
    caption = f"{evidence.model}; {evidence.number_of_heads} heads in {layers} layers; seeds {seeds}; no band"
    return Study(table, layer_bars(panels, caption=caption), WORDS.format(parts=f"seeds ({seeds}), folds and draws"))
