"""What the client sends: items and options as JSON bodies, cut so that no request grows too large.

Beside a body, the key of its prompt, by which a balancer may send a prompt where it was sent before. Knows the native
routes' bodies, nothing of answers, retries or connections.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from app.domain import Item, Message, is_unicode

Weights: TypeAlias = Mapping[str, float]
Level: TypeAlias = int | Literal["max"]
Targets: TypeAlias = Mapping[str, Level] | Literal["prefix"]
Route: TypeAlias = Literal["/score", "/objectives", "/moslim-classify"]
KeyedBy: TypeAlias = Literal["prompt", "first_turn"]

MOST_BODY_BYTES = 8 * 2**20
"""Far below the service's own limit, so that one request neither waits long for its last byte nor blocks others."""
PROMPT_KEY_HEADER = "X-Prompt-Key"
KEY_LENGTH = 16
"""64 bits in hex: two of a million prompts share a key once in 37 million runs, and then only a replica."""


@dataclass(frozen=True, slots=True)
class Call:
    """What is asked about every item of one call: the route and its options, and what its answer must then hold."""

    route: Route
    options: Mapping[str, Any]
    num_directions: int = 0


@dataclass(frozen=True, slots=True)
class WireItem:
    """One item as it is sent."""

    json: bytes
    num_responses: int
    is_rewarded: bool = False
    """Whether targets were given that name a head, so that a reward is due for each response."""
    prompt_key: str = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """In place of an item that no request can carry: the service would refuse all items beside it as well."""

    type: str
    message: str


def wire_items(
    items: Sequence[Item], targets_per_item: Sequence[Targets | None], keyed_by: KeyedBy = "prompt"
) -> list[WireItem | Fault]:
    """Return each item as it is sent, with its own targets.

    Raises:
        ValueError: there are not as many targets as items.
    """
    if len(targets_per_item) != len(items):
        raise ValueError(f"there are {len(targets_per_item)} targets for {len(items)} items")
    return [_wire_item(item, targets, keyed_by) for item, targets in zip(items, targets_per_item, strict=True)]


def chunks(items: Sequence[WireItem], most_items: int, most_bytes: int = MOST_BODY_BYTES) -> Iterator[list[WireItem]]:
    """Cut items into requests, in order: a request holds at most so many items and bytes, and at least one item."""
    chunk: list[WireItem] = []
    num_bytes = 0
    for item in items:
        if chunk and (len(chunk) == most_items or num_bytes + len(item.json) > most_bytes):
            yield chunk
            chunk, num_bytes = [], 0
        chunk.append(item)
        num_bytes += len(item.json)
    if chunk:
        yield chunk


def body_of(items: Sequence[WireItem], options: Mapping[str, Any]) -> bytes:
    """Return the body of one request."""
    options_json = _json(options)[1:]
    comma = b"" if options_json == b"}" else b","
    return b'{"items":[' + b",".join(item.json for item in items) + b"]" + comma + options_json


def key_headers(items: Sequence[WireItem]) -> dict[str, str]:
    """Return the header with the key of the items' prompt; empty where they have several, which belong nowhere."""
    keys = {item.prompt_key for item in items}
    return {PROMPT_KEY_HEADER: keys.pop()} if len(keys) == 1 else {}


def prompt_key(prompt: Sequence[Message]) -> str:
    """Return the beginning of the SHA-256 of a prompt's messages as compact JSON, in hex."""
    return hashlib.sha256(_json(_turns(prompt))).hexdigest()[:KEY_LENGTH]


def _wire_item(item: Item, targets: Targets | None, keyed_by: KeyedBy) -> WireItem | Fault:
    texts = [*(message.content for message in item.prompt), *item.responses]
    if not all(map(is_unicode, texts)):
        return Fault("malformed-body", "a text holds a lone surrogate, which is no character")
    content: dict[str, Any] = {
        "prompt": _turns(item.prompt),
        "responses": item.responses,
    }
    if targets is not None:
        content["targets"] = targets if targets == "prefix" else dict(targets)
    is_rewarded = bool(targets) and targets != "prefix"
    keyed = item.prompt if keyed_by == "prompt" else _first_turn(item.prompt)
    return WireItem(_json(content), len(item.responses), is_rewarded, prompt_key(keyed))


def _turns(prompt: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in prompt]


def _first_turn(prompt: Sequence[Message]) -> Sequence[Message]:
    """Return the messages up to the first user's."""
    users = (place for place, message in enumerate(prompt) if message.role == "user")
    return prompt[: next(users, len(prompt)) + 1]


def _json(content: object) -> bytes:
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
