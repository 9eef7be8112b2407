"""From an item to the token ids of its whole rendered conversations, its prompt tokenised once.

Speed and exactness rest on one property of tokenizers: they cut the text at added tokens before they do anything
else, so what stands left of such a token and what begins with it have the ids they would have apart. The last
special token that a prompt shares with its conversations (Llama 3: `<|end_header_id|>`) is that cut. Left of it
lies the prompt's *head*, tokenised once. Each response is tokenised together with the prompt's *tail*, the few
characters from the cut on, so whatever merges across the boundary merges here too. A template that writes no
special token has its cut at 0: then each conversation is tokenised whole. Prompts are remembered as tokenised.

Nothing here knows what a template writes, nor what the ids are for.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from app.domain import Item, Message, Prefix, TokenizedConversation, TokenizedItem, Truncation, is_unicode
from app.errors import InvalidConversation, MalformedBody, TooManyTokens
from app.text.chat_template import Template, shared_beginning
from app.text.plain_content import PlainContentTokenizer
from app.text.prompt_cache import PromptCache, TokenizedPrompt
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationTokenizer:
    """Turns items into token ids. Threads may share it; `load_tokenizer` makes one.

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
    prompts: PromptCache = field(default_factory=PromptCache, repr=False, compare=False)
    """Shared with every tokenizer that differs from this one in its policy or its limit only."""

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
        mask, masked = self._masked(fitted)
        texts = self.template.conversations(masked.prompt, masked.responses)
        return RenderedItem(
            conversations=tuple(
                RenderedConversation(
                    text=mask.unmask(text),
                    token_ids=conversation.prefix_ids + conversation.response_ids,
                    num_prompt_tokens=len(conversation.prefix_ids),
                    gating_index=conversation.gating_index,
                )
                for text, conversation in zip(texts, tokenized.conversations, strict=True)
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
        texts = {f"prompt[{index}].content": message.content for index, message in enumerate(item.prompt)}
        texts |= {f"responses[{index}]": response for index, response in enumerate(item.responses)}
        for name, text in texts.items():
            if not is_unicode(text):
                problem = "holds a lone surrogate: half of a pair, which is no character"
                raise MalformedBody(f"{name} {problem}", ((name, problem),))
        if self.policy == "reject" and (found := self.tokenizer.special_tokens.count(texts.values())):
            raise InvalidConversation(f"special-token strings in the item: {found}; this service rejects them")

    def _masked(self, item: Item) -> tuple[ContentMask, Item]:
        """Return the mask of an item's content, and the item behind it."""
        mask = self.tokenizer.special_tokens.mask_for([*(message.content for message in item.prompt), *item.responses])
        if not mask.mark:
            return mask, item
        prompt = tuple(replace(message, content=mask.mask(message.content)) for message in item.prompt)
        return mask, Item(prompt, tuple(map(mask.mask, item.responses)))

    def _tokenize(self, item: Item) -> tuple[TokenizedConversation, ...]:
        mask, masked = self._masked(item)
        prompt = self._prompt(masked.prompt, mask)
        conversations = self.template.conversations(masked.prompt, masked.responses)
        if not all(conversation.startswith(prompt.text) for conversation in conversations):
            num_shared_characters = len(shared_beginning([prompt.text, *conversations]))
            prompt = self._tokenize_prompt(prompt.text, num_shared_characters, mask)
        tails_and_responses = [conversation[prompt.cut :] for conversation in conversations]
        return _join(prompt, self.tokenizer.token_ids(tails_and_responses, mask))

    def _prompt(self, masked: tuple[Message, ...], mask: ContentMask) -> TokenizedPrompt:
        """Return the prompt as conversations that begin with all of its rendering need it."""
        known = self.prompts.find((mask.mark, masked))
        if known is not None:
            return known
        text = self.template.prompt(masked).removesuffix(self.unshared_ending)
        return self.prompts.keep((mask.mark, masked), self._tokenize_prompt(text, len(text), mask))

    def _tokenize_prompt(self, text: str, num_shared_characters: int, mask: ContentMask) -> TokenizedPrompt:
        closing, cut = self._boundaries(text, num_shared_characters)
        left, between, tail = self.tokenizer.token_ids([text[:closing], text[closing:cut], text[cut:]], mask)
        leading = self.template.leading_ids
        ids = (*leading, *left, *between, *tail)
        gating_index = None if self.closing_token is None else len(leading) + len(left)
        prefix = Prefix(ids, len(ids) - 1 if gating_index is None else gating_index)
        return TokenizedPrompt(text, cut, len(ids) - len(tail), gating_index, prefix)

    def _boundaries(self, prompt: str, num_shared_characters: int) -> tuple[int, int]:
        """Return where in a rendering its last turn is closed (0 where that is not asked), and the cut."""
        special_tokens = self.tokenizer.special_tokens
        found = list(special_tokens.pattern.finditer(prompt, 0, num_shared_characters))
        cut = max((match.start() for match in found if match[0] in special_tokens.boundaries), default=0)
        if self.closing_token is None:
            return 0, cut
        closings = [match.start() for match in found if match[0] == self.closing_token]
        if not closings:
            raise InvalidConversation("the chat template renders this prompt anew once a response follows")
        return closings[-1], cut


def _longest(conversations: Sequence[TokenizedConversation]) -> int:
    return max(conversation.num_tokens for conversation in conversations)


def _join(prompt: TokenizedPrompt, tails_and_responses: Sequence[list[int]]) -> tuple[TokenizedConversation, ...]:
    """Join the prompt's ids with each response's, and share what all of them agree on.

    Where the gating token is the prompt's last one and merges into a response, the gating of that response alone
    is read one token earlier: a response must not change what its neighbours get.
    """
    prefix, num_head, tail = prompt.prefix, prompt.num_head_tokens, list(prompt.tail)
    agreed = [num_head + _num_agreed(tail, ids) for ids in tails_and_responses]
    if min(agreed) == 0:
        raise InvalidConversation("the first token of the prompt merges into a response, so nothing of it is left")
    conversations = []
    for own, ids in zip(agreed, tails_and_responses, strict=True):
        gating = own - 1 if prompt.gating_index is None else prompt.gating_index
        stop = max(min(agreed), gating + 1)
        response_ids = tuple(ids[stop - num_head :])
        if not response_ids:
            raise InvalidConversation("a response is rendered as no token at all, so there is nothing to score")
        keeps_all = stop == len(prefix) and gating == prefix.gating_index
        known = prefix if keeps_all else None
        conversations.append(TokenizedConversation(prefix.ids[:stop], response_ids, gating, known))
    return tuple(conversations)


def _num_agreed(tail: list[int], ids: list[int]) -> int:
    """Return how many leading ids of a response's tokenisation are the tail's own."""
    if ids[: len(tail)] == tail:
        return len(tail)
    return next((index for index, (a, b) in enumerate(zip(tail, ids, strict=False)) if a != b), len(ids))
