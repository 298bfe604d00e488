"""MQuAKE (Zhong et al. 2023): multi-hop questions under a counterfactual edit, answered in free text.

Files and splits are those of the published LoFiT code: `{train,val,test}.jsonl`, the single-edit cases of MQuAKE-CF-3k.
"""

from pathlib import Path

from lofit.tasks.record import Judgement, Protocol, Record, Split
from lofit.tasks.source import field, read_json_lines


def judgement(protocol: Protocol) -> Judgement:
    # The published code compares without stripping, which fails every model that writes a space after "A:".
    return Judgement("cross_entropy", "exact_match", protocol, stops=("\n",), strip=protocol == "clean")


def load(folder: Path, split: Split, *, protocol: Protocol, fold: int) -> list[Record]:
    return [_record(place, row, protocol) for place, row in read_json_lines(folder / f"{split}.jsonl")]


def _record(place: str, row: dict, protocol: Protocol) -> Record:
    def text(path: str) -> str:
        return field(row, place, path)

    cloze = text("requested_rewrite.0.prompt").replace("{}", text("requested_rewrite.0.subject"))
    edit = f"{cloze} {text('requested_rewrite.0.target_new.str')}"
    answer = text("new_answer")
    aliases = field(row, place, "new_answer_alias", list)
    return Record(
        id=str(field(row, place, "case_id", int)),
        prompt=f"Q: Imagine that {edit}. {text('questions.0')} A:",
        completion=f" {answer}" if protocol == "clean" else answer,
        aliases=tuple(text(f"new_answer_alias.{i}") for i in range(len(aliases))),
    )
