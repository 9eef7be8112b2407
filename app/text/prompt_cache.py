"""Tokenised prompts, remembered: a prompt seen again is neither rendered nor tokenised anew.

Knows no template and no tokenizer. Threads share a cache: one lock, held briefly.
"""

import sys
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from threading import Lock
from typing import Final, TypeAlias

from app.domain import Message, Prefix

PromptKey: TypeAlias = tuple[str, tuple[Message, ...]]
"""All that decides a prompt's ids for one tokenizer: the mark that masks its content, and the masked messages."""

BUDGET_BYTES: Final = 64 * 2**20
"""Room for more than a million tokens of prompts."""
BYTES_PER_TOKEN: Final = 36
"""A place in a tuple and an integer of its own."""


@dataclass(frozen=True, slots=True)
class TokenizedPrompt:
    """A prompt's masked rendering and its ids.

    The rendering is cut at the character `cut`, its ids after `num_head_tokens`: what begins there is tokenised
    together with each response. `gating_index` is None where f(x) is read at the prompt's last token.
    """

    text: str
    cut: int
    num_head_tokens: int
    gating_index: int | None
    prefix: Prefix
    """All ids of the prompt: the one object for all conversations that keep them all."""

    @property
    def tail(self) -> tuple[int, ...]:
        """The ids of the rendering from the cut on."""
        return self.prefix.ids[self.num_head_tokens :]

    @property
    def num_bytes(self) -> int:
        return sys.getsizeof(self.text) + BYTES_PER_TOKEN * len(self.prefix)


class PromptCache:
    """The prompts seen last, as many as fit a budget."""

    def __init__(self, budget_bytes: int = BUDGET_BYTES) -> None:
        self._budget_bytes = budget_bytes
        self._num_bytes = 0
        self._prompts: OrderedDict[PromptKey, TokenizedPrompt] = OrderedDict()
        self._lock = Lock()

    def find(self, key: PromptKey) -> TokenizedPrompt | None:
        """Return the prompt kept under this key, now the one used last."""
        with self._lock:
            prompt = self._prompts.get(key)
            if prompt is not None:
                self._prompts.move_to_end(key)
            return prompt

    def keep(self, key: PromptKey, prompt: TokenizedPrompt) -> TokenizedPrompt:
        """Keep a prompt, unless it is larger than the budget; return the one that is shared from now on.

        Where two threads tokenised the same prompt at once, that is the first one's.
        """
        num_bytes = _num_bytes(key, prompt)
        with self._lock:
            known = self._prompts.get(key)
            if known is not None or num_bytes > self._budget_bytes:
                return known or prompt
            self._prompts[key] = prompt
            self._num_bytes += num_bytes
            while self._num_bytes > self._budget_bytes:
                self._num_bytes -= _num_bytes(*self._prompts.popitem(last=False))
        return prompt

    @property
    def num_bytes(self) -> int:
        """The bytes that are in use, by the estimate."""
        return self._num_bytes

    def __iter__(self) -> Iterator[PromptKey]:
        """Yield the keys of a copy, the one used longest ago first."""
        with self._lock:
            return iter(list(self._prompts))


def _num_bytes(key: PromptKey, prompt: TokenizedPrompt) -> int:
    return prompt.num_bytes + sum(sys.getsizeof(message.content) for message in key[1])
