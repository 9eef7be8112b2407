"""Replicas of the service: real servers, one thread each, and what their metrics say of tokens."""

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.server_process import WatchedServer

FLOAT32_BYTES: Final = 4


class Replica(WatchedServer):
    """The service's own command, which watches nothing."""

    def command(self) -> list[str]:
        serve = [sys.executable, "-m", "app", "serve", "--port", str(self.port), "--log-level", "warning"]
        return [*serve, *self.settings]


@dataclass(frozen=True, slots=True)
class Tokens:
    """Of all requests so far: prompt + response = computed + shared + cached."""

    computed: int = 0
    shared: int = 0
    cached: int = 0

    @property
    def logical(self) -> int:
        return self.computed + self.shared + self.cached

    def __add__(self, other: "Tokens") -> "Tokens":
        return Tokens(self.computed + other.computed, self.shared + other.shared, self.cached + other.cached)


async def start_replicas(folder: Path, number: int, settings: Sequence[str]) -> list[Replica]:
    """Start so many, at once; return them once all are ready."""
    replicas = [new_replica(folder / str(place), settings) for place in range(number)]
    await asyncio.gather(*(replica.start() for replica in replicas))
    return replicas


def new_replica(folder: Path, settings: Sequence[str]) -> Replica:
    """Return one that has not started; its log goes into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    return Replica(folder, settings)


async def tokens_of(replica: Replica) -> Tokens:
    """Ask a replica what it computed, shared and recalled."""
    _, content = await replica.ask("GET", "/metrics")
    families = text_string_to_metric_families(content.decode())
    kinds = {
        sample.labels["kind"]: int(sample.value)
        for family in families
        for sample in family.samples
        if sample.name == "armoserve_tokens_total"
    }
    return Tokens(kinds["computed"], kinds["shared"], kinds["cached"])


def token_bytes(weights: Path) -> int:
    """Return what the prefix cache keeps of one token in float32: keys and values of all layers."""
    config = json.loads((weights / "config.json").read_text(encoding="utf-8"))
    width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return int(config["num_hidden_layers"] * 2 * config["num_key_value_heads"] * width * FLOAT32_BYTES)
