"""What is asked of every engine: items whose lengths are the same in each round and whose texts are not.

A text that came before would be remembered by a prefix cache; only what real callers repeat is repeated here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from app.domain import Item, Message
from app.text.tokenization import ConversationTokenizer
from benchmarks.peers.texts import Prose

PROMPT_TOKENS: Final = 256
SHORTEST_RESPONSE, LONGEST_RESPONSE = 20, 200
SYSTEM_TOKENS: Final = 600


@dataclass(frozen=True, slots=True)
class Request:
    """Items to score, and their conversations as the chat template writes them, for engines that take text."""

    items: tuple[Item, ...]
    texts: tuple[str, ...]
    lengths: tuple[int, ...]
    """Tokens of each text."""

    @property
    def num_tokens(self) -> int:
        return sum(self.lengths)


@dataclass(frozen=True, slots=True)
class Workload:
    """A kind of request; `items` gives new ones of the same lengths."""

    name: str
    description: str
    items: Callable[[], tuple[Item, ...]]

    def request(self, tokenizer: ConversationTokenizer) -> Request:
        """Return the next request."""
        items = self.items()
        conversations = [one for item in items for one in tokenizer.render(item).conversations]
        lengths = tuple(len(one.token_ids) for one in conversations)
        return Request(items, tuple(one.text for one in conversations), lengths)


def best_of_n(prose: Prose, n: int, prompt_tokens: int = PROMPT_TOKENS) -> Workload:
    """Return one prompt with n responses of 20 to 200 tokens."""
    lengths = response_lengths(n)

    def items() -> tuple[Item, ...]:
        prompt, *responses = prose.texts([prompt_tokens, *lengths])
        return (Item((Message("user", prompt),), tuple(responses)),)

    span = f"{SHORTEST_RESPONSE}–{LONGEST_RESPONSE}"
    return Workload(f"best-of-{n}", f"one prompt of {prompt_tokens} tokens, responses of {span} tokens", items)


def mixed_lengths(prose: Prose, count: int) -> Workload:
    """Return distinct conversations whose lengths spread like those of chats (log-normal)."""
    generator = np.random.default_rng(0)
    prompts, responses = (
        np.clip(generator.lognormal(np.log(typical), 0.8, size=count), 8, 1500).astype(int).tolist()
        for typical in (150, 100)
    )

    def items() -> tuple[Item, ...]:
        texts = iter(prose.texts([*prompts, *responses]))
        asked = [next(texts) for _ in prompts]
        return tuple(Item((Message("user", prompt),), (next(texts),)) for prompt in asked)

    both = [sum(pair) for pair in zip(prompts, responses, strict=True)]
    span = f"{min(both)} to {max(both)} tokens, median {int(np.median(both))}"
    return Workload(f"mixed lengths ({count})", f"distinct conversations of {span}", items)


def shared_system_prompt(prose: Prose, count: int, *, warm: bool) -> Workload:
    """Return conversations after one long system prompt, which was seen in earlier rounds or is new in each."""
    lengths = [40, 80] * count
    known = prose.texts([SYSTEM_TOKENS])

    def items() -> tuple[Item, ...]:
        (system,) = known if warm else prose.texts([SYSTEM_TOKENS])
        texts = prose.texts(lengths)
        turns = zip(texts[::2], texts[1::2], strict=True)
        return tuple(Item((Message("system", system), Message("user", ask)), (reply,)) for ask, reply in turns)

    when = "seen before" if warm else "new"
    name = f"system prompt, {when} ({count})"
    return Workload(
        name, f"a system prompt of {SYSTEM_TOKENS} tokens, {when}; 40 of the user, 80 of the response", items
    )


def pairs(prose: Prose, count: int) -> Workload:
    """Return prompts with two responses each, as in preference data."""
    lengths = [PROMPT_TOKENS // 2, 120, 80] * count

    def items() -> tuple[Item, ...]:
        texts = prose.texts(lengths)
        return tuple(
            Item((Message("user", prompt),), (one, other))
            for prompt, one, other in zip(texts[::3], texts[1::3], texts[2::3], strict=True)
        )

    return Workload(f"pairs ({count})", f"prompts of {PROMPT_TOKENS // 2} tokens, responses of 120 and 80", items)


def response_lengths(n: int) -> list[int]:
    """Return n lengths from the shortest to the longest, in no order."""
    generator = np.random.default_rng(n)
    lengths: list[int] = generator.integers(SHORTEST_RESPONSE, LONGEST_RESPONSE, size=n, endpoint=True).tolist()
    return lengths
