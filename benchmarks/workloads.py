"""What is scored in a measurement: real conversations where they are at hand, else random ids of like lengths."""

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from app.domain import Item, Message, TokenizedConversation
from app.text.tokenization import load_tokenizer

PREFIX_TOKENS = 256
SHORTEST_RESPONSE, LONGEST_RESPONSE = 20, 200


@dataclass(frozen=True, slots=True)
class Workload:
    """Conversations to score, and what they are, in words."""

    name: str
    description: str
    conversations: list[TokenizedConversation]


def best_of_n(pool: list[TokenizedConversation], n: int, seed: int = 0) -> Workload:
    """Return one prompt of 256 tokens with n responses of 20 to 200 tokens, cut from the pool's text."""
    generator = np.random.default_rng(seed)
    stream = np.concatenate([(*entry.prefix_ids, *entry.response_ids) for entry in pool])
    lengths = generator.integers(SHORTEST_RESPONSE, LONGEST_RESPONSE, size=n, endpoint=True)
    starts = generator.integers(PREFIX_TOKENS, len(stream) - LONGEST_RESPONSE, size=n)
    prefix = tuple(stream[:PREFIX_TOKENS].tolist())
    responses = [tuple(stream[start : start + length].tolist()) for start, length in zip(starts, lengths, strict=True)]
    conversations = [TokenizedConversation(prefix, response, PREFIX_TOKENS - 5) for response in responses]
    span = f"{SHORTEST_RESPONSE}–{LONGEST_RESPONSE}"
    return Workload(f"best-of-{n}", f"one prompt of {PREFIX_TOKENS} tokens, responses of {span} tokens", conversations)


def mixed_lengths(pool: list[TokenizedConversation], count: int, seed: int = 0) -> Workload:
    """Return distinct conversations, drawn from the pool as they come."""
    chosen = np.random.default_rng(seed).choice(len(pool), size=count, replace=False)
    conversations = [pool[index] for index in chosen]
    shortest, median, longest = np.percentile([entry.num_tokens for entry in conversations], [0, 50, 100])
    lengths = f"{shortest:.0f} to {longest:.0f} tokens, median {median:.0f}"
    return Workload(f"mixed lengths ({count})", f"distinct conversations of {lengths}", conversations)


def random_pool(vocabulary: int, count: int = 200, seed: int = 0) -> list[TokenizedConversation]:
    """Return conversations of random ids whose lengths spread like those of chats (log-normal)."""
    generator = np.random.default_rng(seed)

    def ids(typical_tokens: int) -> tuple[int, ...]:
        length = int(np.clip(generator.lognormal(np.log(typical_tokens), 0.8), 8, 1500))
        return tuple(generator.integers(0, vocabulary - 1, size=length).tolist())

    return [TokenizedConversation(ids(150), ids(100), gating_index=3) for _ in range(count)]


def real_pool(data: Path, tokenizer_folder: Path, per_source: int = 20) -> list[TokenizedConversation]:
    """Return equally many conversations of each rated source, tokenised as the service does, up to 2048 tokens."""
    tokenizer = load_tokenizer(tokenizer_folder, max_conversation_tokens=8192)
    pool: list[TokenizedConversation] = []
    for path in sorted((data / "ratings").glob("*.jsonl.gz")):
        rows = list(_rows(path))
        for row in rows[:: max(1, len(rows) // per_source)][:per_source]:
            prompt = tuple(Message(turn["role"], turn["content"]) for turn in row["messages"])
            pool += tokenizer.encode(Item(prompt, (row["response"],)), "prompt_left").conversations
    return [conversation for conversation in pool if conversation.num_tokens <= 2048]


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)
