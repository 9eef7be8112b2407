"""A data folder in the project's form with a few dozen made-up rows: polite answers are good, rude ones are not."""

import gzip
import json
import random
from pathlib import Path
from typing import Any

TOPICS = ("apples", "rivers", "clocks", "kites", "bread", "stars", "maps", "cats", "rain", "ships", "books", "bees")
POLITE = ("Of course, here is what I know about {topic}.", "Happy to help: {topic} are lovely, and here is why.")
RUDE = ("No. Go away with your {topic}.", "What a silly question about {topic}, I will not answer it.")


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)


def write_data_folder(folder: Path, *, seed: int = 0) -> Path:
    """Write ratings of two sources, preferences of two, and two benchmark subsets."""
    generator = random.Random(seed)
    write_rows(folder / "ratings" / "gptfuzz_harmless_human.jsonl.gz", _ratings(generator, "harmlessness", 1.0))
    write_rows(folder / "ratings" / "arena_bench_gpt4.jsonl.gz", _ratings(generator, "overall", 10.0, lowest=1.0))
    for source in ("pandalm_human", "hh_rlhf_harmless_base"):
        write_rows(folder / "preferences" / f"{source}.jsonl.gz", _pairs(generator, source))
    write_rows(folder / "benchmark" / "llmbar-natural.jsonl.gz", _benchmark(generator, "Chat Hard"))
    write_rows(folder / "benchmark" / "rmbench-code.jsonl.gz", _benchmark(generator, "Reasoning", group_size=3))
    return folder


def question(topic: str, number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Question {number}: what do you know about {topic}?"}]


def _answer(generator: random.Random, topic: str, *, polite: bool) -> str:
    sentences = [
        generator.choice(POLITE if polite else RUDE).format(topic=topic) for _ in range(generator.randint(1, 4))
    ]
    return " ".join(sentences)


def _split(number: int) -> str:
    return "test" if number % 6 == 5 else "train"


def _ratings(generator: random.Random, rating: str, highest: float, lowest: float = 0.0) -> list[dict[str, Any]]:
    rows = []
    for number in range(48):
        topic = TOPICS[number % len(TOPICS)]
        for polite in (True, False):
            value = highest if polite else lowest
            row = {"messages": question(topic, number), "response": _answer(generator, topic, polite=polite)}
            rows.append(row | {"split": _split(number), "ratings": {rating: value}})
    return rows


def _pairs(generator: random.Random, source: str) -> list[dict[str, Any]]:
    rows = []
    for number in range(48):
        topic = TOPICS[number % len(TOPICS)]
        chosen, rejected = (_answer(generator, topic, polite=polite) for polite in (True, False))
        row = {"source": source, "split": _split(number), "messages": question(topic, number)}
        rows.append(row | {"chosen": chosen, "rejected": rejected})
    return rows


def _benchmark(generator: random.Random, section: str, group_size: int = 1) -> list[dict[str, Any]]:
    rows = []
    for number in range(12):
        topic = TOPICS[number]
        chosen, rejected = (_answer(generator, topic, polite=polite) for polite in (True, False))
        row = {"section": section, "prompt": f"Tell me about {topic}.", "chosen": chosen, "rejected": rejected}
        row |= {"id": number, "overlaps_training": number >= 9}
        rows += [row | {"group": f"g{number}"} for _ in range(group_size)]
    return rows
