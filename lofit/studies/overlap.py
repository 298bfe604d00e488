"""Whether tasks and seeds choose the same heads (LoFiT, Figure 6): the Jaccard index of every two sets.

Two random sets of K of N heads share K²/N of them. So the share that two sets have in common has to be read beside K/N:
.03 at 3 % of the heads, .1 at 10 %.
"""

from itertools import combinations

import numpy as np

from lofit.report.evidence import Evidence, Study, StudySettings, expected_jaccard, jaccard
from lofit.report.study_plots import matrix
from lofit.settings import Name

TITLE = "Whether tasks and seeds choose the same heads"

WORDS = """Each field is the Jaccard index of two sets of heads: how many are in both, over how many are in either. In
the table, `shared of K` is how many are in both, over the smaller K; random sets reach the column next to each."""


class Settings(StudySettings):
    rows: list[Name] = []  # noqa: RUF012
    """Rows of LoFiT; by default the first one whose heads step 1 has chosen."""


def study(evidence: Evidence, settings: Settings) -> Study:
    rows = settings.rows or [evidence.main_row(None)]
    sets = {
        ", ".join([task, *([row] if len(rows) > 1 else []), part]): heads
        for task in evidence.tasks
        for row in rows
        for part, heads in evidence.heads(task, row).items()
    }
    names, heads = list(sets), list(sets.values())
    table = []
    for (one, first), (other, second) in combinations(sets.items(), 2):
        smaller, larger = sorted((len(first), len(second)))
        table.append(
            {
                "heads of": one,
                "and of": other,
                "shared": len(first & second),
                "shared of K": len(first & second) / smaller,
                "by chance": larger / evidence.number_of_heads,
                "Jaccard": jaccard(first, second),
                "Jaccard by chance": expected_jaccard(smaller, larger, evidence.number_of_heads),
            }
        )
    values = np.array([[jaccard(one, other) for other in heads] for one in heads])
    chance = expected_jaccard(len(heads[0]), len(heads[0]), evidence.number_of_heads)
    caption = (
        f"{evidence.model}; K = {len(heads[0])} of {evidence.number_of_heads} heads; by chance {chance:.3f}; no band"
    )
    texts = [[f"{value:.2f}" for value in line] for line in values]
    figure = matrix(values, texts, down=names, across=names, labels=("heads of", "and of"), caption=caption)
    return Study(table, figure, WORDS)
