"""Items of chosen shapes made of real text: pieces of so many tokens, cut from the data's prompts and responses."""

import gzip
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from app.domain import Item, Message

GROUP = 16
"""Responses to one prompt."""
TEXTS_AT_ONCE = 200
SPECIAL = ("<|", "[PAD]")
"""What opens Llama 3's special tokens: text that holds one forges turns in the naive way, so none of it is used."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Items to tokenise, other ones every round."""

    name: str
    description: str
    rounds: tuple[list[Item], ...]


class Pieces:
    """Pieces of real text, one after the other."""

    def __init__(self, texts: Iterable[str], tokenizer: Tokenizer) -> None:
        self._texts = (text for text in texts if not any(string in text for string in SPECIAL))
        self._tokenizer = tokenizer
        self._text = ""
        self._offsets: list[tuple[int, int]] = []

    def take(self, num_tokens: int) -> str:
        """Return the next piece of about so many tokens: cut off, its edges may be tokenised otherwise."""
        while len(self._offsets) < num_tokens:
            texts = list(islice(self._texts, TEXTS_AT_ONCE))
            if not texts:
                raise ValueError("the data has no text left: measure fewer rounds")
            self._text = "\n\n".join(texts)
            self._offsets = self._tokenizer.encode(self._text, add_special_tokens=False).offsets
        taken, self._offsets = self._offsets[:num_tokens], self._offsets[num_tokens:]
        return self._text[taken[0][0] : taken[-1][1]]


def workloads(data: Path, tokenizer: Tokenizer, num_rounds: int) -> list[Workload]:
    """Return what is measured; no prompt occurs in two rounds."""
    cuts = Cuts(data, tokenizer)
    answered = answered_by_several(data)
    made: tuple[tuple[str, str, Callable[[], list[Item]]], ...] = (
        (
            "one prompt, 16 responses",
            "a prompt of 512 tokens with 16 responses of 256; 8 such items a round",
            cuts.groups,
        ),
        ("the same, short", "a prompt of 256 tokens with 16 responses of 20–200; 16 items", cuts.short_groups),
        (
            "flood of single items",
            "as the first, but each response an item of its own, 16 to a prompt; 128 items",
            cuts.flood,
        ),
        (
            "one system prompt",
            "2048 tokens before 32 distinct user turns of 64, each with a response of 128",
            cuts.under_one_system_prompt,
        ),
        ("distinct prompts", "a prompt of 512 tokens with a response of 256; 48 items", cuts.distinct),
        ("long responses", "a prompt of 512 tokens with 4 responses of 2048; 4 items", cuts.long_responses),
        (
            "as they come",
            "prompts and the responses of up to 15 models to each, uncut; 6 items",
            lambda: list(islice(answered, 6)),
        ),
    )
    return [Workload(name, description, tuple(make() for _ in range(num_rounds))) for name, description, make in made]


class Cuts:
    """Items of given lengths; each call goes on in the data where the one before it stopped."""

    def __init__(self, data: Path, tokenizer: Tokenizer) -> None:
        self._prompts, self._responses = Pieces(_prompts(data), tokenizer), Pieces(_responses(data), tokenizer)
        self._generator = np.random.default_rng(0)

    def item(self, prompt_tokens: int, *response_tokens: int) -> Item:
        """Return one prompt with responses, of these lengths."""
        prompt = (Message("user", self._prompts.take(prompt_tokens)),)
        return Item(prompt, tuple(map(self._responses.take, response_tokens)))

    def groups(self) -> list[Item]:
        return [self.item(512, *[256] * GROUP) for _ in range(8)]

    def short_groups(self) -> list[Item]:
        return [
            self.item(256, *self._generator.integers(20, 200, size=GROUP, endpoint=True).tolist()) for _ in range(16)
        ]

    def flood(self) -> list[Item]:
        return [Item(group.prompt, (response,)) for group in self.groups() for response in group.responses]

    def under_one_system_prompt(self) -> list[Item]:
        system = Message("system", self._prompts.take(2048))
        bare = [self.item(64, 128) for _ in range(32)]
        return [Item((system, *one.prompt), one.responses) for one in bare]

    def distinct(self) -> list[Item]:
        return [self.item(512, 256) for _ in range(48)]

    def long_responses(self) -> list[Item]:
        return [self.item(512, *[2048] * 4) for _ in range(4)]


def answered_by_several(data: Path) -> Iterator[Item]:
    """Return prompts with what several models answered to each, uncut."""
    answers: dict[str, list[str]] = {}
    for row in _rows(data / "ratings", "arena_bench_gpt4"):
        prompt, response = row["messages"][-1]["content"], row["response"]
        if len(row["messages"]) == 1 and not any(string in prompt + response for string in SPECIAL):
            answers.setdefault(prompt, []).append(response)
    return (Item((Message("user", prompt),), tuple(given)) for prompt, given in answers.items())


def _prompts(data: Path) -> Iterator[str]:
    rows = (row for folder in ("preferences", "prompts") for row in _rows(data / folder))
    contents = (message["content"] for row in rows for message in row["messages"])
    return iter(dict.fromkeys(contents))


def _responses(data: Path) -> Iterator[str]:
    return (row["response"] for row in _rows(data / "ratings"))


def _rows(folder: Path, name: str = "*") -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob(f"{name}.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            yield from map(json.loads, lines)
