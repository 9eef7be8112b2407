"""How messages become text: the chat template of a weights folder, with today's date frozen.

The only caller of `apply_chat_template`. Nothing here knows what a token is.
"""

import datetime as dt
import json
import os
from collections.abc import Sequence
from typing import Protocol

import jinja2
from transformers import PreTrainedTokenizerBase

from app.domain import Message
from app.errors import InvalidConversation, InvalidWeights

DEFAULT_DATE = dt.date(2024, 7, 26)
"""What a template that asks for today's date gets where no date is set: Llama 3's own default."""
DATE_DIRECTIVES = ("Y", "y", "m", "-m", "B", "b", "d", "-d", "e", "A", "a", "j", "H", "I", "M", "S", "p")


def shared_beginning(renderings: Sequence[str]) -> str:
    """Return the text with which all renderings begin."""
    return os.path.commonprefix(list(renderings))  # noqa: RUF071 (characters, not paths, are meant)


class Template(Protocol):
    """Renders a prompt, and the same prompt with a response."""

    @property
    def source(self) -> str:
        """All that decides a rendering."""
        ...

    @property
    def leading_ids(self) -> tuple[int, ...]:
        """Token ids that stand before every rendering."""
        ...

    def prompt(self, messages: Sequence[Message], *, opens_response: bool = True) -> str:
        """Render the prompt, up to where a response begins or (`opens_response=False`) its last turn ends."""
        ...

    def conversations(self, messages: Sequence[Message], responses: Sequence[str]) -> list[str]:
        """Render the prompt once with each response that follows it."""
        ...


class ChatTemplate:
    """The Jinja template of a tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, frozen_date: str | None = None) -> None:
        self._tokenizer = tokenizer
        date = DEFAULT_DATE if frozen_date is None else _parsed_date(frozen_date)
        self._template = _with_frozen_clock(tokenizer.get_chat_template(), date)
        self._variables = {} if frozen_date is None else {"date_string": date.strftime("%d %b %Y")}
        self.leading_ids: tuple[int, ...] = ()
        self.source = json.dumps([self._template, self._variables, tokenizer.special_tokens_map])

    def prompt(self, messages: Sequence[Message], *, opens_response: bool = True) -> str:
        """Render the prompt, up to where a response begins or (`opens_response=False`) its last turn ends.

        Raises:
            InvalidConversation: the template refuses these messages.
        """
        return self._render([_chat(messages)], opens_response=opens_response)[0]

    def conversations(self, messages: Sequence[Message], responses: Sequence[str]) -> list[str]:
        """Render the prompt once with each response that follows it.

        Raises:
            InvalidConversation: the template refuses these messages.
        """
        prompt = _chat(messages)
        chats = [[*prompt, {"role": "assistant", "content": response}] for response in responses]
        return self._render(chats, opens_response=False)

    def _render(self, chats: Sequence[list[dict[str, str]]], *, opens_response: bool) -> list[str]:
        try:
            rendered: list[str] = self._tokenizer.apply_chat_template(
                chats,
                chat_template=self._template,
                tokenize=False,
                add_generation_prompt=opens_response,
                **self._variables,
            )
        except jinja2.TemplateError as error:
            # The template's own words may quote the content, so they stay in the cause.
            has_system = chats[0][0]["role"] == "system"
            hint = "; it may not take a system message" if has_system else ""
            raise InvalidConversation(f"the chat template of these weights refuses this conversation{hint}") from error
        return rendered


def _chat(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def _parsed_date(frozen_date: str) -> dt.date:
    try:
        return dt.date.fromisoformat(frozen_date)
    except ValueError:
        raise InvalidWeights(f"the frozen date of the template is {frozen_date!r}; it must read YYYY-MM-DD") from None


def _with_frozen_clock(template: str, date: dt.date) -> str:
    """Define the template's clock anew, in its own language: functions cannot be handed to a template."""
    if "strftime_now" not in template:
        return template
    filters = "".join(f" | replace({f'%{code}'!r}, {date.strftime(f'%{code}')!r})" for code in DATE_DIRECTIVES)
    return f"{{% macro strftime_now(format) %}}{{{{ format{filters} }}}}{{% endmacro %}}\n{template}"
