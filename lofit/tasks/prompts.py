"""Prompts as the model will read them: chats written by its template, and none longer than it reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from lofit.errors import LofitError
from lofit.models.chat import chat_prompt
from lofit.tasks.record import Record, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Reader:
    """What reads the prompts."""

    tokenizer: "PreTrainedTokenizerBase"

    chat_options: Mapping[str, Any]
    """Further variables of the chat template."""

    max_length: int | None = None
    """The longest example, in tokens; None for no limit."""

    positions: int | None = None
    """What the model reads at most, in tokens; None for no limit."""

    new_tokens: int = 0
    """How many of these a generated answer may need."""

    def write(self, records: Sequence[Record]) -> list[Record]:
        """Records whose prompts are texts.

        Raises:
            LofitError: the chat template does not take a record's turns.
        """
        return [
            replace(record, prompt=self._written(record, record.turns), turns=()) if record.turns else record
            for record in records
        ]

    def shorten(self, records: Sequence[Record], overlong: Literal["drop", "cut_prompt"]) -> tuple[list[Record], int]:
        """Records that are short enough, their prompts written; and how many were not.

        Raises:
            LofitError: a record is too long even without its prompt.
        """
        kept, count = [], 0
        for record in records:
            excess = self._excess(self.write([record])[0])
            count += excess > 0
            if excess > 0 and overlong == "drop":
                continue
            kept.append(self._cut(record, excess) if excess > 0 else record)
        return self.write(kept), count

    def _written(self, record: Record, turns: Sequence[Turn]) -> str:
        try:
            return chat_prompt(self.tokenizer, turns, self.chat_options)
        except LofitError as error:
            raise LofitError(f"example {record.id}: {error}") from None

    def _excess(self, record: Record) -> int:
        """By how many tokens a record is too long, with the longest of its answers and an end token."""
        # Here and below: most tasks measure nothing, and should not wait for torch to load.
        from lofit.models.tokens import encode

        answers = [record.completion, record.rejected, *record.correct, *record.incorrect]
        rows = [
            encode(self.tokenizer, prompt, answer)
            for prompt in {record.prompt, record.scoring_prompt or record.prompt}
            for answer in answers
            if answer is not None
        ]
        over = [0]
        for row in rows:
            whole = len(row.ids) + 1
            over += [whole - limit for limit in (self.max_length, self.positions) if limit is not None]
            if self.positions is not None:
                over.append(row.start + self.new_tokens - self.positions)
        return max(over)

    def _cut(self, record: Record, excess: int) -> Record:
        """A record whose prompt, or last turn, begins so much later that it is short enough."""
        from lofit.models.tokens import tokenise

        while excess > 0:
            text = record.turns[-1]["content"] if record.turns else record.prompt
            spans = tokenise(self.tokenizer, text, return_offsets_mapping=True)["offset_mapping"]
            starts = [start for start, end in spans if end > start]
            if excess >= len(starts):
                raise LofitError(
                    f"example {record.id}: {excess} tokens too long, {len(starts)} in its prompt; expected a longer "
                    "max_length, fewer max_new_tokens, or overlong: drop"
                )
            text = text[starts[excess] :]
            if record.turns:
                record = replace(record, turns=(*record.turns[:-1], {**record.turns[-1], "content": text}))
            else:
                record = replace(record, prompt=text)
            excess = self._excess(self.write([record])[0])
        return record
