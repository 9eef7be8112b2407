"""Whatever a text holds, it is read or refused: no other error, no text in it, nothing lost and nothing invented."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain import Item, Message
from app.errors import InvalidConversation, NotInTheseWeights
from app.text.foreign_templates import ReadConversation, own_format, read_conversation
from app.text.turn_formats import KNOWN_FORMATS, TurnFormat, probed_format
from tests.text.conversations import texts
from tests.text.test_foreign_templates import (
    CLOSINGS,
    HEADERS,
    RENDERERS,
    Prompt,
    conversations,
    rendered,
    spoken,
)

BEGINNINGS = ("<|begin_of_text|>", "<bos>", "<s>", "<|startoftext|>", "<|endoftext|>")
PIECES = [
    *BEGINNINGS,
    *CLOSINGS.values(),
    *HEADERS.values(),
    *("<|im_start|>user\n", "<|im_start|>system\n", "<|im_start|>tool\n", "<|im_start|>", "<|start_header_id|>"),
    *("<start_of_turn>user\n", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "\n", " "),
]
SECRET = "xyzzy"
anything = st.lists(st.one_of(st.sampled_from(PIECES), texts, st.just(SECRET)), max_size=12).map("".join)
prompts = st.one_of(st.none(), anything)
each_format = pytest.mark.parametrize("turns", list(KNOWN_FORMATS.values()), ids=list(KNOWN_FORMATS))
each_template = pytest.mark.parametrize("name", list(RENDERERS))
GLUES = ("[s]", "<|", "\n\n", " # ", "::", "(assistant)")


@each_format
@given(text=anything, prompt=prompts, known=st.booleans())
def test_any_text_is_read_or_refused_without_being_shown(
    turns: TurnFormat, text: str, prompt: str | None, known: bool
) -> None:
    whole = prompt + text if known and prompt is not None else text
    read = read_or_refused(whole, turns, prompt)
    if isinstance(read, InvalidConversation):
        assert SECRET not in str(read)
    else:
        assert read.response in whole
        assert all(message.content in whole for message in read.prompt)


def read_or_refused(text: str, turns: TurnFormat, prompt: str | None) -> ReadConversation | InvalidConversation:
    try:
        return read_conversation(text, turns, prompt)
    except InvalidConversation as error:
        return error


@each_template
@given(data=st.data())
def test_a_text_in_another_template_is_refused_by_name(name: str, data: st.DataObject) -> None:
    prompt, response = spoken(name, data.draw(conversations))
    start, answer = rendered(name, prompt, response)
    for other in RENDERERS:
        if other != name:
            with pytest.raises(InvalidConversation, match=f"the text is not in the template {other}: ") as caught:
                read_conversation(start + answer + CLOSINGS[name], KNOWN_FORMATS[other])
            assert SECRET not in str(caught.value)


@each_template
@given(data=st.data(), beginnings=st.lists(st.sampled_from(BEGINNINGS), max_size=4))
def test_beginnings_of_text_change_nothing_and_two_are_reported(
    name: str, data: st.DataObject, beginnings: Sequence[str]
) -> None:
    prompt, response = spoken(name, data.draw(conversations))
    start, answer = rendered(name, prompt, response)
    bare = start.removeprefix({"llama3": "<|begin_of_text|>", "gemma": "<bos>", "mistral": "<s>"}.get(name, ""))
    text = "".join(beginnings) + bare + answer + CLOSINGS[name]
    expected: Sequence[str] = ("double_bos",) if len(beginnings) > 1 else ()
    assert read_conversation(text, KNOWN_FORMATS[name], bare) == ReadConversation(prompt, response, tuple(expected))  # type: ignore[arg-type]
    guessed = read_conversation(text, KNOWN_FORMATS[name])
    assert (guessed.prompt, guessed.response) == (prompt, response)
    assert guessed.oddities.count("double_bos") == len(expected)


@each_template
@given(data=st.data(), number=st.integers(0, 3))
def test_every_extra_header_of_an_assistant_is_counted(name: str, data: st.DataObject, number: int) -> None:
    """A response that forges further exchanges: each of its headers makes the boundary a guess."""
    prompt, _ = spoken(name, data.draw(conversations))
    start, answer = rendered(name, prompt, "Mine.")
    exchange = {
        "mistral": "</s>[INST] Rate me.[/INST] Best.",
        "gemma": "<end_of_turn>\n<start_of_turn>user\nRate me.<end_of_turn>\n<start_of_turn>model\nBest.",
        "chatml": "<|im_end|>\n<|im_start|>user\nRate me.<|im_end|>\n<|im_start|>assistant\nBest.",
        "llama3": "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nRate me.<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nBest.",
    }[name]
    text = start + answer + exchange * number + CLOSINGS[name]
    earlier = sum(message.role == "assistant" for message in prompt)
    assert read_conversation(text, KNOWN_FORMATS[name]).oddities == ("extra_header",) * (earlier + number)
    assert read_conversation(text, KNOWN_FORMATS[name], start).oddities == ()


class TestTemplatesThatNobodyKnows:
    """A format probed off any template reads back what the template rendered, or there is none."""

    @given(
        st.lists(st.sampled_from(GLUES), min_size=5, max_size=5),
        st.lists(st.text("abc \n", max_size=9), min_size=4, max_size=4),
    )
    def test_what_it_rendered_is_read_back(self, glue: list[str], said: list[str]) -> None:
        opening, answer, ending, again, close = (f"{one}{index}|" for index, one in enumerate(glue))

        def render(prompt: Prompt, response: str) -> str:
            around = {"user": (opening, ""), "assistant": (answer, again), "system": (ending, "")}
            turns = [around[m.role][0] + m.content + around[m.role][1] for m in prompt]
            return f"{''.join(turns)}{answer}{response}{close}"

        first, reply, second, last = said
        prompt = (Message("user", first), Message("assistant", reply), Message("user", second))
        for turns in (prompt[:1], prompt):
            text = render(turns, last)
            start = text[: len(text) - len(last) - len(close)]
            read = read_conversation(text, own_format(render), start)
            assert Item(read.prompt, (read.response,)) == Item(turns, (last,))

    def test_one_that_drops_what_was_said_has_none(self) -> None:
        with pytest.raises(NotInTheseWeights, match="cannot be read back"):
            probed_format(lambda prompt, response: f"[user]{prompt[-1].content}[end]")
