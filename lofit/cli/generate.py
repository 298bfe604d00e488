"""lofit generate: continuations without and with an adapter."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from lofit.cli.adapter_base import check_revision
from lofit.cli.arguments import DTYPE_HELP, KINDS, Dtype, Revision, find_base, find_dtype
from lofit.cli.terminal import columns, terminal
from lofit.errors import LofitError

if TYPE_CHECKING:
    # `lofit --help` should not wait for torch to load.
    from lofit.models.tokens import Reading


def generate(
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT", help="What the model is to continue.")],
    model: Annotated[str, typer.Option(help=KINDS)],
    adapter: Annotated[str | None, typer.Option(help="A folder that holds an adapter, or its Hugging Face id.")] = None,
    revision: Revision = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of a continuation, in tokens.")] = 32,
    chat: Annotated[bool, typer.Option("--chat", help="Put prompts into the tokenizer's chat template.")] = False,
    chat_options: Annotated[
        str, typer.Option(metavar="JSON", help="Further variables of the template: '{\"enable_thinking\": false}'.")
    ] = "{}",
    dtype: Annotated[Dtype, typer.Option(help=DTYPE_HELP)] = "float32",
) -> None:
    """Continue prompts greedily, by the model as it is and by the model with an adapter."""
    options = read_options(chat_options)
    if options and not chat:
        raise LofitError(f"--chat-options: got {chat_options!r}; expected only with --chat")
    from lofit.adapters.kinds import load_adapter
    from lofit.models import generation
    from lofit.models.base import load, resolve
    from lofit.models.chat import chat_prompt

    edits = load_adapter(adapter) if adapter else None
    found = find_base(model, revision)
    base = resolve(found.name, source=found.source, revision=found.revision, dtype=find_dtype(dtype))
    if edits is not None and adapter is not None:
        check_revision(adapter, edits.provenance, base, chosen=True)
    loaded, tokenizer = load(base)
    turns = [[{"role": "user", "content": prompt}] for prompt in prompts]
    shown = [chat_prompt(tokenizer, turn, options) for turn in turns] if chat else prompts

    def continued(reading: "Reading | None" = None) -> list[str]:
        return generation.generate(
            loaded, tokenizer, shown, batch_size=8, max_new_tokens=max_new_tokens, reading=reading
        )

    texts = {model: continued()}
    if edits is not None:
        with edits.to(loaded.device).attach(loaded, base.layout):
            texts[f"{model} with {adapter}"] = continued(edits.reader)
    show_texts(prompts, texts)


def read_options(text: str) -> dict[str, Any]:
    """The variables of a chat template, as a user writes them."""
    try:
        options = json.loads(text)
    except ValueError as error:
        raise LofitError(f"--chat-options: got {text!r} ({error}); expected a JSON object") from None
    if not isinstance(options, dict):
        raise LofitError(f"--chat-options: got {text!r}; expected a JSON object")
    return options


def show_texts(prompts: list[str], texts: dict[str, list[str]]) -> None:
    """Print each prompt with its continuations: side by side in a terminal, one after the other elsewhere."""
    console = terminal()
    for row, prompt in enumerate(prompts):
        if not console.is_terminal:
            print(f"prompt: {prompt}", *(f"{name}: {text[row]}" for name, text in texts.items()), "", sep="\n")
            continue
        console.print(Text(prompt, style="bold"))
        table = columns(*texts, ratio=1)
        table.add_row(*(text[row].strip("\n") for text in texts.values()))
        console.print(table, "")
