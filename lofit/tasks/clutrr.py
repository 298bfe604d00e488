"""CLUTRR (Sinha et al. 2019): kinship reasoning over a short story, answered with one relation.

Files and splits are those of the published LoFiT code: `{train,val,test}.json`, two-hop stories (task_1.2).
What methods that read activations contrast a relation with is another one, drawn by the seed and the record's id.
"""

import random
import re
from pathlib import Path

from lofit.errors import LofitError
from lofit.tasks.clutrr_prompt import PROMPT
from lofit.tasks.record import Metric, Objective, Options, Record, Split
from lofit.tasks.source import Place, field, read_json_items

RELATIONS = (
    *("aunt", "brother", "daughter", "daughter-in-law", "father", "father-in-law", "granddaughter", "grandfather"),
    *("grandmother", "grandson", "mother", "mother-in-law", "nephew", "niece", "sister", "son", "son-in-law", "uncle"),
)
QUERY = re.compile(r"\('([^']+)', '([^']+)'\)")


def aims(folder: Path, options: Options) -> tuple[Objective, Metric]:
    # The published code does not cut at a line's end, so "sister\nQ: ..." counts as wrong there. It takes what stands
    # between the first and the second "'s\n" of prompt and answer together; the prompt ends in the first.
    stops = ("\n", ".") if options.protocol == "clean" else ("'s\n", ".")
    return Objective("cross_entropy"), Metric(
        "exact_match", options.protocol, stops=stops, plain=options.protocol == "clean"
    )


def load(folder: Path, split: Split, options: Options) -> list[Record]:
    return [_record(place, item, options) for place, item in read_json_items(folder / f"{split}.json")]


def _record(place: Place, item: dict, options: Options) -> Record:
    query = field(item, place, "query")
    match = QUERY.fullmatch(query)
    if match is None:
        raise LofitError(f"{place}: field 'query' is {query!r}; expected \"('A', 'B')\"")
    anchor, person = match.groups()
    if options.protocol == "lofit":
        # The published code splits the query at the comma and keeps the blank before the second name.
        person = f" {person}"
    story = field(item, place, "clean_story").replace("[", "").replace("]", "")
    name, relation = field(item, place, "id"), field(item, place, "target_text")
    others = [other for other in RELATIONS if other != relation.strip().lower()]
    return Record(
        id=name,
        prompt=PROMPT.format(story=story, person=person, anchor=anchor),
        completion=relation,
        contrast=(random.Random(f"{options.seed} {name}").choice(others),),
    )
