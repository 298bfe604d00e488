"""LoFiT among other methods (LoFiT, Tables 1 and 3): scores and trained numbers of all rows on all tasks."""

from lofit.report.evidence import Evidence, Study, StudySettings
from lofit.report.row_study import study_of_rows
from lofit.settings import Name

TITLE = "LoFiT among other methods"

WORDS = """Differences are to `{reference}` on the same questions (paired bootstrap, Holm's correction over all of
them); intervals are 95 % bootstrap intervals over questions."""


class Settings(StudySettings):
    reference: Name | None = None
    """The row to compare with; by default the first one whose heads step 1 has chosen."""

    rows: list[Name] = []  # noqa: RUF012
    """The rows to show, with the reference; by default all."""


def study(evidence: Evidence, settings: Settings) -> Study:
    rows = settings.rows or list(dict.fromkeys(row for cells in evidence.cells.values() for row in cells))
    reference = evidence.main_row(settings.reference)
    return study_of_rows(evidence, rows, reference=reference, words=WORDS.format(reference=reference))
