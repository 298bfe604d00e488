"""Studies: what is wrong with their settings, and what decides their results."""

from collections.abc import Iterator

from lofit import studies
from lofit.errors import LofitError
from stages.params import effective
from stages.params.code import code_hash
from stages.params.schema import Params
from stages.plan import Plan


def faults(params: Params) -> Iterator[str]:
    """Studies that there are not, or whose blocks are missing, faulty, or name what `run` does not compute."""
    run = params.run
    for study in dict.fromkeys(run.studies):
        if run.studies.count(study) > 1:
            yield f"run.studies: got {study!r} twice; expected each once"
        if study not in studies.names():
            yield f"run.studies: got {study!r}; expected {', '.join(studies.names())}"
        elif study not in params.studies:
            # DVC reads it, and stops at a key that is not there.
            yield f"studies.{study}: missing; expected a block, {{}} for its defaults"
        else:
            yield from setting_faults(params, study)
    if run.studies and not run.lofit_rows:
        yield f"run.studies: got {run.studies[0]!r}; expected a row of LoFiT in run, which all studies show"


def setting_faults(params: Params, study: str) -> Iterator[str]:
    try:
        settings = studies.find(study).Settings.of(params.studies[study])
    except LofitError as error:
        yield from (f"studies.{study}.{fault}" for fault in str(error).splitlines())
        return
    known = {"task": params.run.tasks, "row": params.run.rows}
    for what, name in settings.named():
        if name not in known[what]:
            yield f"studies.{study}: got the {what} {name!r}; expected {', '.join(known[what])}"


def plan(params: Params, study: str) -> Plan:
    """What decides a study's result, besides the cells that it reads."""
    page = studies.find(study)
    choices = {}
    for task in params.run.tasks:
        chosen = {row: effective.selection(params, task, row) for row in params.run.lofit_rows}
        choices[task] = {
            row: {"ranking": choice.ranking, "settings": choice.settings.model_dump(mode="json")}
            for row, choice in chosen.items()
        }
    settings = page.Settings.of(params.studies[study]).model_dump(mode="json")
    return {"settings": settings, "choices": choices, "code": code_hash("stages.study", page.__name__)}
