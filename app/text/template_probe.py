"""What a template writes around content, found once per weights folder by rendering marks in place of content.

Refuses templates whose conversations could not be scored safely, so that no request meets them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jinja2

from app.domain import Message, Role
from app.errors import InvalidConversation, InvalidWeights
from app.text.chat_template import Template, shared_beginning
from app.text.special_tokens import SpecialTokens

MARK = "\U0010ff00"
"""Stands for content: one private-use character, which templates neither trim nor look for."""


@dataclass(frozen=True, slots=True)
class TemplateProbe:
    """Renderings of a template whose contents are all `MARK`."""

    closed_prompt: str
    prompt: str
    conversation: str
    closed_system_prompt: str
    """Empty where the template takes no system message."""

    @property
    def written_around_turns(self) -> str:
        """What the template writes to open and to close the turns of a prompt."""
        return self.closed_system_prompt + self.closed_prompt

    @property
    def unshared_ending(self) -> str:
        """What ends a prompt but is not there where a response follows."""
        return self.prompt[len(shared_beginning([self.prompt, self.conversation])) :]


def probe_template(template: Template) -> TemplateProbe:
    """Render a template's marks.

    Raises:
        InvalidWeights: the template fails, or does not write each content exactly once.
    """
    messages = _marks("user", "assistant", "user")
    try:
        probe = TemplateProbe(
            closed_prompt=template.prompt(messages, opens_response=False),
            prompt=template.prompt(messages),
            conversation=template.conversations(messages, [MARK])[0],
            closed_system_prompt=_closed_system_prompt(template),
        )
    except Exception as error:  # a template is a program: it may fail in any way
        raise InvalidWeights(f"the chat template fails on a plain conversation: {_reason(error)}") from error
    if (probe.prompt.count(MARK), probe.conversation.count(MARK)) != (len(messages), len(messages) + 1):
        raise InvalidWeights("the chat template does not write the content of each message exactly once")
    return probe


def _reason(error: Exception) -> str:
    """Say what a template stumbled over; only a syntax error's words are sure to quote no content."""
    cause = error.__cause__ or error
    if isinstance(cause, jinja2.TemplateSyntaxError):
        return f"{cause.message} (line {cause.lineno})"
    return type(cause).__name__


def check_no_content_completes_a_token(probe: TemplateProbe, special_tokens: SpecialTokens) -> None:
    """Refuse a template in whose rendering content could supply one part of a special-token string.

    Raises:
        InvalidWeights: the template writes the other part next to content, or two contents side by side.
    """
    for rendering in (probe.prompt, probe.conversation, probe.closed_system_prompt):
        written = rendering.split(MARK)
        if any(_could_be_completed(written, string) for string in special_tokens.strings):
            raise InvalidWeights("the chat template lets content complete one of its special tokens")


def _could_be_completed(written: Sequence[str], string: str) -> bool:
    """Say whether `string` could begin, end or lie around what the template writes between contents."""
    cuts = range(1, len(string))
    begins = any(text.endswith(string[:cut]) for text in written[:-1] for cut in cuts)
    ends = any(text.startswith(string[cut:]) for text in written[1:] for cut in cuts)
    return begins or ends or any(text in string[1:-1] for text in written[1:-1])


def closing_token(probe: TemplateProbe, special_tokens: SpecialTokens) -> str:
    """Return the special token that closes the last turn of a prompt: the first one after its content.

    Raises:
        InvalidWeights: there is none that marks the same place in every rendering.
    """
    match = special_tokens.pattern.search(_after_content(probe.closed_prompt))
    if match is None or match[0] not in special_tokens.boundaries:
        raise InvalidWeights(
            "the chat template closes a user turn with no special token, so there is no end-of-turn token "
            "to read the gating from: set the gating token to last_prompt_token"
        )
    ending = _after_content(probe.prompt.removesuffix(probe.unshared_ending))
    if [found[0] for found in special_tokens.pattern.finditer(ending)].count(match[0]) != 1:
        raise InvalidWeights("the chat template does not close the last turn the same way once a response follows")
    return match[0]


def _after_content(rendering: str) -> str:
    return rendering.rpartition(MARK)[2]


def _closed_system_prompt(template: Template) -> str:
    try:
        return template.prompt(_marks("system", "user"), opens_response=False)
    except InvalidConversation:
        return ""


def _marks(*roles: Role) -> list[Message]:
    return [Message(role, MARK) for role in roles]
