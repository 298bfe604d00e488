"""Whether it matters which heads are tuned (LoFiT, Table 2): the same step 2 at heads of different rankings."""

from lofit.report.evidence import Evidence, Study, StudySettings
from lofit.report.row_study import study_of_rows
from lofit.settings import Name

TITLE = "Whether it matters which heads are tuned"

WORDS = """All rows tune offsets of as many heads in the same way; what differs is how the heads are chosen. Differences
are to `{reference}` on the same questions (paired bootstrap, Holm's correction over all of them). Of rows that draw
heads several times the score is the mean; the lowest and the highest draw stand beside it, and below its dot."""


class Settings(StudySettings):
    reference: Name | None = None
    """The row to compare with; by default the first one whose heads step 1 has chosen."""

    rows: list[Name] = []  # noqa: RUF012
    """Rows of LoFiT, without the reference; by default all."""


def study(evidence: Evidence, settings: Settings) -> Study:
    reference = evidence.main_row(settings.reference)
    rows = [reference, *(row for row in settings.rows or evidence.lofit_rows() if row != reference)]
    return study_of_rows(evidence, rows, reference=reference, words=WORDS.format(reference=reference))
