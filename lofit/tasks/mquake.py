"""MQuAKE (Zhong et al. 2023): multi-hop questions under a counterfactual edit, answered in free text.

Files and splits are those of the published LoFiT code: `{train,val,test}.jsonl`, the single-edit cases of MQuAKE-CF-3k.
What methods that read activations contrast the new answer with is the one from before the edit, `answer`, where a file
has it.
"""

from pathlib import Path

from lofit.tasks.record import Metric, Objective, Options, Protocol, Record, Split
from lofit.tasks.source import Place, field, read_json_lines


def aims(folder: Path, options: Options) -> tuple[Objective, Metric]:
    if options.protocol == "clean":
        return Objective("cross_entropy"), Metric("exact_match", "clean", stops=("\n",))
    # The published code compares without stripping, which fails every model that writes a space after "A:". It takes
    # what follows the last "A:" of prompt and answer together.
    return Objective("cross_entropy"), Metric(
        "exact_match", "lofit", after="A:", stops=("\n",), strip=False, plain=False
    )


def load(folder: Path, split: Split, options: Options) -> list[Record]:
    return [_record(place, row, options.protocol) for place, row in read_json_lines(folder / f"{split}.jsonl")]


def _record(place: Place, row: dict, protocol: Protocol) -> Record:
    def text(path: str) -> str:
        return field(row, place, path)

    template, answer = text("requested_rewrite.0.prompt"), text("new_answer")
    if protocol == "clean":
        # "Imagine that the capital of", not "that The capital of". A subject that stands first, "{}", stays a name.
        template = template[0].lower() + template[1:]
    edit = f"{template.replace('{}', text('requested_rewrite.0.subject'))} {text('requested_rewrite.0.target_new.str')}"
    count = len(field(row, place, "new_answer_alias", list))
    aliases = tuple(text(f"new_answer_alias.{i}") for i in range(count))
    before = text("answer") if row.get("answer") is not None else answer
    # An edit may leave the answer as it was, under another name.
    is_wrong = before.strip().casefold() not in {right.strip().casefold() for right in (answer, *aliases)}
    blank = " " if protocol == "clean" else ""
    return Record(
        id=str(field(row, place, "case_id", int)),
        prompt=f"Q: Imagine that {edit}. {text('questions.0')} A:",
        completion=blank + answer,
        aliases=aliases,
        contrast=(blank + before,) if is_wrong else (),
    )
