"""Chat templates: programs that come with a checkpoint."""

import pytest

from lofit.errors import LofitError
from lofit.models.chat import chat_prompt

PLAIN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
USER = [{"role": "user", "content": "hot"}]
SYSTEM = {"role": "system", "content": "Be brief."}
STRICT = (
    "{% if messages[0].role != 'system' %}{{ raise_exception('Conversation must start with a system prompt') }}"
    "{% endif %}" + PLAIN
)


@pytest.fixture
def chatting(make_tokenizer):
    def make(template):
        tokenizer = make_tokenizer()
        tokenizer.chat_template = template
        return tokenizer

    return make


def test_turns_are_written_up_to_where_the_answer_begins(chatting):
    assert chat_prompt(chatting(PLAIN), [SYSTEM, *USER]) == "<system>Be brief.<user>hot<assistant>"


def test_options_reach_the_template(chatting):
    tokenizer = chatting(PLAIN + "{% if not enable_thinking | default(true) %}<think></think>{% endif %}")
    assert chat_prompt(tokenizer, USER) == "<user>hot<assistant>"
    assert chat_prompt(tokenizer, USER, {"enable_thinking": False}) == "<user>hot<assistant><think></think>"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (STRICT, "Conversation must start with a system prompt"),
        ("{{ messages[0].content.nothing() }}", "has no attribute 'nothing'"),
        ("{{ messages[7].content }}", "no element 7"),
        ("{% for m in messages %}", "Unexpected end of template"),
        ("{{ 1 // 0 }}", "division"),
    ],
)
def test_whatever_a_template_raises_is_one_line_with_its_own_words(chatting, template, said):
    with pytest.raises(LofitError) as refusal:
        chat_prompt(chatting(template), USER)
    message = str(refusal.value)
    assert message.startswith("chat template: ") and said in message and "\n" not in message
    assert message.endswith("; expected one that takes the turns user")


def test_a_template_that_wants_a_system_turn_gets_one(chatting):
    assert chat_prompt(chatting(STRICT), [SYSTEM, *USER]).startswith("<system>")


def test_a_tokenizer_without_a_template_is_refused(tokenizer):
    with pytest.raises(LofitError, match="no chat template; expected one, for chat prompts"):
        chat_prompt(tokenizer, USER)
