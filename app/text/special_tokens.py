"""Which strings only a template may write, and how content that holds them stays plain text.

A template writes its special tokens as strings into the same text as the content, so the string alone does
not say who wrote it. Two renamings keep the two apart:

1. before rendering, special-token strings in content are *masked* by a mark that occurs nowhere in the item;
2. after rendering, every special-token string left is the template's own, and gets a *private name*, drawn
   at random per process, so that no content can hold it. `plain_content.py` has the tokenizer that knows the
   special tokens by their private names only.

Nothing here knows what a template or a conversation is.
"""

import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tokenizers import AddedToken, Tokenizer

LAST_CODE_POINT = 0x10FFFD


@dataclass(frozen=True, slots=True)
class ContentMask:
    """Hides the special-token strings of one item's content from its template; an empty mark hides nothing."""

    tokens: "SpecialTokens"
    mark: str

    def mask(self, content: str) -> str:
        if not self.mark:
            return content
        number = self.tokens.number
        return self.tokens.pattern.sub(lambda match: f"{self.mark}{number[match[0]]}{self.mark}", content)

    def unmask(self, text: str) -> str:
        if not self.mark:
            return text
        return re.sub(f"{self.mark}([0-9]+){self.mark}", lambda match: self.tokens.strings[int(match[1])], text)


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """The special-token strings of a tokenizer, longest first, each with its private name."""

    strings: tuple[str, ...]
    number: Mapping[str, int]
    pattern: re.Pattern[str]
    boundaries: frozenset[str]
    """Tokens at which a tokenizer cuts the text before it does anything else, whatever stands around them:
    what is left of such a token and what begins with it may be tokenised apart."""
    salt: str

    def private_name(self, string: str) -> str:
        return f"{self.salt}{self.number[string]:04x}"

    def privatise(self, masked: str) -> str:
        """Give the special tokens in a masked rendering, all of them the template's own, their private names."""
        return self.pattern.sub(lambda match: self.private_name(match[0]), masked)

    def count(self, texts: Iterable[str]) -> int:
        return sum(sum(1 for _ in self.pattern.finditer(text)) for text in texts)

    def mask_for(self, contents: Sequence[str]) -> ContentMask:
        """Return the mask for an item with these contents: a mark that none of them holds."""
        if not any(self.pattern.search(content) for content in contents):
            return ContentMask(self, "")
        used = set().union(*contents)
        return ContentMask(self, next(mark for mark in map(chr, range(LAST_CODE_POINT, 0, -1)) if mark not in used))


def special_tokens_of(tokenizer: Tokenizer, template_text: str) -> SpecialTokens:
    """Collect the tokens marked special, and those that are not but with which the template builds its turns.

    Args:
        tokenizer: the tokenizer whose added tokens are meant.
        template_text: what the template itself writes around content.
    """
    added: list[AddedToken] = [
        token
        for token in tokenizer.get_added_tokens_decoder().values()
        if token.special or (token.content in template_text and not token.content.isspace())
    ]
    strings = tuple(sorted((token.content for token in added), key=len, reverse=True))
    return SpecialTokens(
        strings=strings,
        number={string: number for number, string in enumerate(strings)},
        pattern=re.compile("|".join(map(re.escape, strings)) or "(?!)"),
        boundaries=frozenset(
            token.content for token in added if not (token.normalized or token.lstrip or token.single_word)
        ),
        salt=secrets.token_hex(8),
    )
