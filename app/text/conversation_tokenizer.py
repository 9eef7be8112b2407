"""From an item to the token ids of its whole rendered conversations, its prompt tokenised once.

Speed and exactness rest on one property of tokenizers: they cut the text at added tokens before they do anything
else, so what stands left of such a token and what begins with it have the ids they would have apart. The last
special token that a prompt shares with its conversations (Llama 3: `<|end_header_id|>`) is that cut. Left of it
lies the prompt's *head*, tokenised once. Each response is tokenised together with the prompt's *tail*, the few
characters from the cut on, so whatever merges across the boundary merges here too. A template that writes no
special token has its cut at 0: then each conversation is tokenised whole.

Nothing here knows what a template writes, nor what the ids are for.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from app.domain import Item, TokenizedConversation, TokenizedItem, Truncation, is_unicode
from app.errors import InvalidConversation, MalformedBody, TooManyTokens
from app.text.chat_template import Template, shared_beginning
from app.text.plain_content import PlainContentTokenizer
from app.text.special_tokens import ContentMask
from app.text.truncation import shorten_prompt

SpecialTokenPolicy = Literal["neutralise", "reject"]


@dataclass(frozen=True, slots=True)
class RenderedConversation:
    """What would be scored for one response; ids that stand before every rendering have no place in `text`."""

    text: str
    token_ids: tuple[int, ...]
    num_prompt_tokens: int
    gating_index: int


@dataclass(frozen=True, slots=True)
class RenderedItem:
    """What would be scored for an item: one conversation per response, in order."""

    conversations: tuple[RenderedConversation, ...]
    truncated: bool


@dataclass(frozen=True, slots=True)
class _Renderings:
    """An item's prompt and conversations as text, the special-token strings of their content masked."""

    mask: ContentMask
    prompt: str
    conversations: tuple[str, ...]

    @property
    def num_shared_characters(self) -> int:
        """How much of the prompt's rendering all conversations begin with: all of it, for most templates."""
        if all(conversation.startswith(self.prompt) for conversation in self.conversations):
            return len(self.prompt)
        return len(shared_beginning([self.prompt, *self.conversations]))


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationTokenizer:
    """Turns items into token ids. Immutable, so threads may share it; `load_tokenizer` makes one.

    `closing_token` is the special token that closes a prompt's last turn, where f(x) is read; None reads it at
    the prompt's last token. `unshared_ending` is what the template writes where a response is yet to be generated
    but not where one follows (an opened `<think>`): it is no part of any conversation.
    """

    template: Template
    tokenizer: PlainContentTokenizer
    closing_token: str | None
    unshared_ending: str
    policy: SpecialTokenPolicy
    max_conversation_tokens: int
    template_digest: str

    @property
    def largest_content_id(self) -> int:
        """The largest token id that any content can become."""
        return self.tokenizer.largest_content_id

    def encode(self, item: Item, truncation: Truncation = "never") -> TokenizedItem:
        """Return the ids of every conversation of the item; they share `prefix_ids` where they can.

        Raises:
            TooManyTokens: a conversation is over the limit, and `truncation` is `never` or cannot help.
            InvalidConversation: the template refuses the item, or the policy its special-token strings.
            MalformedBody: a text holds a lone surrogate.
        """
        return self._fit(item, truncation)[1]

    def render(self, item: Item, truncation: Truncation = "never") -> RenderedItem:
        """Return what `encode` would have scored, as text and ids.

        Raises:
            TooManyTokens, InvalidConversation, MalformedBody: as `encode`.
        """
        fitted, tokenized = self._fit(item, truncation)
        renderings = self._render(fitted)
        return RenderedItem(
            conversations=tuple(
                RenderedConversation(
                    text=renderings.mask.unmask(text),
                    token_ids=conversation.prefix_ids + conversation.response_ids,
                    num_prompt_tokens=len(conversation.prefix_ids),
                    gating_index=conversation.gating_index,
                )
                for text, conversation in zip(renderings.conversations, tokenized.conversations, strict=True)
            ),
            truncated=tokenized.truncated,
        )

    def _fit(self, item: Item, truncation: Truncation) -> tuple[Item, TokenizedItem]:
        """Return the item, shortened where that was asked for and needed, and its ids."""
        self._check(item)
        conversations = self._tokenize(item)
        longest, limit = _longest(conversations), self.max_conversation_tokens
        if longest <= limit:
            return item, TokenizedItem(conversations)
        if truncation == "never":
            raise TooManyTokens(f"the longest conversation has {longest} tokens; the limit is {limit}")
        fitted = shorten_prompt(
            item, limit, lambda shorter: _longest(self._tokenize(shorter)), self.tokenizer.drop_tokens
        )
        return fitted, TokenizedItem(self._tokenize(fitted), truncated=True)

    def _check(self, item: Item) -> None:
        """Refuse text that cannot be encoded, or that the policy does not want."""
        fields = {f"prompt[{index}].content": message.content for index, message in enumerate(item.prompt)}
        fields |= {f"responses[{index}]": response for index, response in enumerate(item.responses)}
        for field, text in fields.items():
            if not is_unicode(text):
                problem = "holds a lone surrogate: half of a pair, which is no character"
                raise MalformedBody(f"{field} {problem}", ((field, problem),))
        if self.policy == "reject" and (found := self.tokenizer.special_tokens.count(fields.values())):
            raise InvalidConversation(f"special-token strings in the item: {found}; this service rejects them")

    def _render(self, item: Item) -> _Renderings:
        contents = [message.content for message in item.prompt]
        mask = self.tokenizer.special_tokens.mask_for([*contents, *item.responses])
        prompt = [replace(message, content=mask.mask(message.content)) for message in item.prompt]
        return _Renderings(
            mask=mask,
            prompt=self.template.prompt(prompt).removesuffix(self.unshared_ending),
            conversations=tuple(self.template.conversation(prompt, mask.mask(response)) for response in item.responses),
        )

    def _tokenize(self, item: Item) -> tuple[TokenizedConversation, ...]:
        renderings = self._render(item)
        closing, cut = self._boundaries(renderings)
        prompt = renderings.prompt
        pieces = [prompt[:closing], prompt[closing:cut], prompt[cut:]]
        pieces += [conversation[cut:] for conversation in renderings.conversations]
        left, between, tail, *tails_and_responses = self.tokenizer.token_ids(pieces, renderings.mask)
        head = [*self.template.leading_ids, *left, *between]
        gating_index = None if self.closing_token is None else len(self.template.leading_ids) + len(left)
        return _join(head, tail, tails_and_responses, gating_index)

    def _boundaries(self, renderings: _Renderings) -> tuple[int, int]:
        """Return where in the prompt its last turn is closed (0 where that is not asked), and the cut."""
        special_tokens = self.tokenizer.special_tokens
        found = list(special_tokens.pattern.finditer(renderings.prompt, 0, renderings.num_shared_characters))
        cut = max((match.start() for match in found if match[0] in special_tokens.boundaries), default=0)
        if self.closing_token is None:
            return 0, cut
        closings = [match.start() for match in found if match[0] == self.closing_token]
        if not closings:
            raise InvalidConversation("the chat template renders this prompt anew once a response follows")
        return closings[-1], cut


def _longest(conversations: Sequence[TokenizedConversation]) -> int:
    return max(conversation.num_tokens for conversation in conversations)


def _join(
    head: list[int], tail: list[int], tails_and_responses: Sequence[list[int]], gating_index: int | None
) -> tuple[TokenizedConversation, ...]:
    """Join the prompt's ids with each response's, and share what all of them agree on.

    Where the gating token is the prompt's last one and merges into a response, the gating of that response alone
    is read one token earlier: a response must not change what its neighbours get.
    """
    prompt = (*head, *tail)
    agreed = [len(head) + _num_agreed(tail, ids) for ids in tails_and_responses]
    if min(agreed) == 0:
        raise InvalidConversation("the first token of the prompt merges into a response, so nothing of it is left")
    conversations = []
    for own, ids in zip(agreed, tails_and_responses, strict=True):
        gating = own - 1 if gating_index is None else gating_index
        stop = max(min(agreed), gating + 1)
        response_ids = tuple(ids[stop - len(head) :])
        if not response_ids:
            raise InvalidConversation("a response is rendered as no token at all, so there is nothing to score")
        conversations.append(TokenizedConversation(prompt[:stop], response_ids, gating))
    return tuple(conversations)


def _num_agreed(tail: list[int], ids: list[int]) -> int:
    """Return how many leading ids of a response's tokenisation are the tail's own."""
    return next(
        (index for index, (a, b) in enumerate(zip(tail, ids, strict=False)) if a != b), min(len(tail), len(ids))
    )
