"""A hundred real conversations of every kind that breaks tokenisation or packing, always the same ones."""

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Messages = list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Conversation:
    """A prompt and one response to it, with what kind it is for messages of failing tests."""

    kind: str
    prompt: Messages
    response: str


def real_conversations(data: Path) -> list[Conversation]:
    """Return 100 conversations: multi-turn, with a system message, code, long, and of other languages and scripts."""
    chosen = [
        *_some("multi-turn", 30, _preferences(data, "hh_rlhf_harmless_base"), lambda row: len(row.prompt) >= 3),
        *_some("system", 15, _ratings(data, "begin_grounding_human")),
        *_some("code", 10, _ratings(data, "humaneval_execution")),
        *_some("code", 10, _benchmark(data, "hep-rust")),
        *_some("long", 15, _preferences(data, "qa_feedback_human"), lambda row: _characters(row) > 2500),
        *_some("long", 12, _ratings(data, "arena_bench_gpt4"), lambda row: 4000 < _characters(row) < 9000),
        *_very_long(data),
        *_some("not ASCII", 5, _ratings(data, "arena_bench_gpt4"), _is_foreign),
    ]
    assert len(chosen) == 100
    return chosen


def best_of_n(data: Path, prompts: int) -> list[tuple[Messages, list[str]]]:
    """Return real prompts with two to eight real responses each."""
    groups: dict[str, tuple[Messages, list[str]]] = {}
    for name in ("qa_feedback_human", "qlora_vicuna_gpt4_pairs", "hh_rlhf_harmless_base"):
        for row in _rows(data / "preferences" / f"{name}.jsonl.gz"):
            _, responses = groups.setdefault(json.dumps(row["messages"]), (row["messages"], []))
            responses += [text for text in (row["chosen"], row["rejected"]) if text.strip() and text not in responses]
    usable = [(prompt, responses[:8]) for prompt, responses in groups.values() if len(responses) >= 2]
    usable.sort(key=lambda group: -len(group[1]))
    return usable[:: len(usable) // prompts][:prompts]


def _some(kind: str, count: int, rows: Iterator[Conversation], suits: Any = lambda row: True) -> list[Conversation]:
    usable = [row for row in rows if row.response.strip() and suits(row)]
    return [Conversation(kind, row.prompt, row.response) for row in usable[:: len(usable) // count][:count]]


def _very_long(data: Path) -> list[Conversation]:
    """Pair long prompts with long responses, whatever they say, to come near the limit of 8192 tokens."""
    prompts = sorted((row["messages"] for row in _rows(data / "prompts" / "general.jsonl.gz")), key=_prompt_characters)
    longest_first = sorted((row.response for row in _ratings(data, "gptfuzz_harmless_human")), key=len, reverse=True)
    return [
        Conversation("very long", prompts[-1], longest_first[20]),
        Conversation("very long", prompts[-5], longest_first[0]),
        Conversation("very long", prompts[-2], longest_first[10]),
    ]


def _ratings(data: Path, name: str) -> Iterator[Conversation]:
    for row in _rows(data / "ratings" / f"{name}.jsonl.gz"):
        yield Conversation(name, row["messages"], row["response"])


def _preferences(data: Path, name: str) -> Iterator[Conversation]:
    for row in _rows(data / "preferences" / f"{name}.jsonl.gz"):
        yield Conversation(name, row["messages"], row["chosen"])


def _benchmark(data: Path, name: str) -> Iterator[Conversation]:
    for row in _rows(data / "benchmark" / f"{name}.jsonl.gz"):
        yield Conversation(name, [{"role": "user", "content": row["prompt"]}], row["chosen"])


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _characters(row: Conversation) -> int:
    return len(row.response) + _prompt_characters(row.prompt)


def _prompt_characters(prompt: Messages) -> int:
    return sum(len(message["content"]) for message in prompt)


def _is_foreign(row: Conversation) -> bool:
    text = row.response + row.prompt[-1]["content"]
    return 100 < len(text) < 6000 and sum(ord(letter) > 0x2FF for letter in text) > len(text) / 10
