"""The prefix cache: what the model computed for prompts, so that a prompt seen again costs its responses only.

A radix tree over token ids: a node holds a run of tokens with their keys and values (after rotation) in every layer,
and what the heads read at gating tokens among them. Prompts that begin alike (a system prompt, the turns of a
conversation) share the nodes of their beginning. Least recently used ends of branches go when the budget is full.
Knows no pack and no request. Written by the engine's thread, asked from the event loop: one lock, held briefly.

M key heads · n tokens of a node · E head size · D hidden size
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import TypeAlias

import torch

from app.domain import Prefix

Ids: TypeAlias = tuple[int, ...]
States: TypeAlias = tuple[torch.Tensor, torch.Tensor]
"""Keys and values of a run of tokens in one layer, (1, M, n, E) each."""

LEAST_SHARED_TOKENS = 16
"""A shorter beginning, such as a template's header, costs more to fetch than to compute."""
CPU_BUDGET_BYTES = 256 * 2**20
FREE_SHARE = 1 / 3
"""Of a GPU's memory once the weights are there: the rest is for the forward passes."""


@dataclass(frozen=True, slots=True)
class RecalledPrefix:
    """The beginning of a prompt as the cache had it when asked; what is dropped from the cache stays valid here."""

    prefix: Prefix
    num_tokens: int = 0
    """Length of the beginning."""
    runs: tuple[tuple[States, ...], ...] = ()
    """Per run of the beginning, its states per layer."""
    gating_hidden_D: torch.Tensor | None = None
    """What the heads read at the gating token, float32; known where the beginning holds that token."""
    is_shareable: bool = False
    """Whether the rest, once stored, is there for all prompts that begin with it."""

    def keys(self, layer: int) -> list[torch.Tensor]:
        """Return the keys of one layer, (1, M, n, E) a run."""
        return [run[layer][0] for run in self.runs]

    def values(self, layer: int) -> list[torch.Tensor]:
        """Return the values of one layer, (1, M, n, E) a run."""
        return [run[layer][1] for run in self.runs]


@dataclass(eq=False, slots=True)
class _Node:
    token_ids: Ids
    states: tuple[States, ...]
    parent: "_Node | None"
    gating: dict[int, torch.Tensor] = field(default_factory=dict)
    """Offset within the run → what the heads read there."""
    children: "dict[Ids, _Node]" = field(default_factory=dict)
    """By the beginning of their run: all are told apart by it."""

    @property
    def num_bytes(self) -> int:
        tensors = [tensor for states in self.states for tensor in states]
        return sum(one.numel() * one.element_size() for one in [*tensors, *self.gating.values()])


class PrefixCache:
    """Prompts' keys, values and gating features, within a budget of bytes."""

    def __init__(self, budget_bytes: int, *, whole_prompts_only: bool = False) -> None:
        """`whole_prompts_only` shares no part of a prompt: what is computed after a part rounds otherwise than all."""
        self.budget_bytes = budget_bytes
        self.whole_prompts_only = whole_prompts_only
        self.num_bytes = 0
        self.num_tokens = 0
        self.num_evictions = 0
        self._bytes_per_token = 0.0
        """As last stored; 0 until then."""
        self._lock = Lock()
        self._root = _Node((), (), None)
        self._by_use: OrderedDict[_Node, None] = OrderedDict()
        """Least recently used first; a node is always used after its children, so the first has none."""

    def find(self, prefix: Prefix) -> RecalledPrefix:
        """Return the longest known beginning of a prompt that helps to score responses to it.

        It ends before the gating token where what the heads read there is not known.
        """
        with self._lock:
            path, num_tokens = self._walk(prefix.ids)
            self._touch(path)
            gating_hidden_D = _gating(path, prefix.gating_index) if prefix.gating_index < num_tokens else None
            if gating_hidden_D is None:
                num_tokens = min(num_tokens, prefix.gating_index)
            least_tokens = len(prefix) if self.whole_prompts_only else LEAST_SHARED_TOKENS
            if num_tokens < least_tokens:
                return RecalledPrefix(prefix, is_shareable=self._can_share(prefix))
            runs = _runs(path, num_tokens)
            return RecalledPrefix(prefix, num_tokens, runs, gating_hidden_D, self._can_share(prefix))

    def store(self, recalled: RecalledPrefix, states: Sequence[States], gating_hidden_D: torch.Tensor) -> None:
        """Remember the rest of a prompt, computed after what was recalled of it.

        Args:
            recalled: what `find` gave for the prompt.
            states: per layer the keys and values of the rest, (1, M, n, E); copied, so that they may be views.
            gating_hidden_D: what the heads read at the gating token.
        """
        with self._lock:
            path, num_known = self._walk(recalled.prefix.ids)
            if num_known < recalled.num_tokens:
                return  # its beginning has been dropped meanwhile
            tail = path[-1] if path else self._root
            inside = num_known - sum(len(node.token_ids) for node in path[:-1])
            if path and inside < len(tail.token_ids):
                tail = self._split(tail, inside)
                path[-1] = tail
            rest_ids = recalled.prefix.ids[num_known:]
            if rest_ids:
                skipped = num_known - recalled.num_tokens
                copies = tuple((_copy(keys, skipped), _copy(values, skipped)) for keys, values in states)
                path.append(self._add(_Node(rest_ids, copies, tail)))
                self._bytes_per_token = path[-1].num_bytes / len(rest_ids)
            self._remember_gating(path, recalled.prefix.gating_index, gating_hidden_D)
            self._touch(path)
            self._shrink()

    def clear(self) -> None:
        """Forget everything: the weights have changed, or the memory is needed."""
        with self._lock:
            self.num_evictions += len(self._by_use)
            for node in self._by_use:
                node.parent = None  # parent and child would keep each other in memory until garbage is collected
            self._by_use.clear()
            self._root = _Node((), (), None)
            self.num_bytes = self.num_tokens = 0

    def _can_share(self, prefix: Prefix) -> bool:
        return not self.whole_prompts_only and len(prefix) * self._bytes_per_token <= self.budget_bytes

    def _walk(self, prefix_ids: Ids) -> tuple[list[_Node], int]:
        """Return the nodes that spell the longest known beginning, and its length; the last may be known in part."""
        path: list[_Node] = []
        node, num_known = self._root, 0
        while num_known < len(prefix_ids):
            child = node.children.get(self._key(prefix_ids, num_known))
            if child is None:
                break
            path.append(child)
            num_alike = _num_alike(child.token_ids, prefix_ids[num_known : num_known + len(child.token_ids)])
            num_known += num_alike
            if num_alike < len(child.token_ids):
                break
            node = child
        return path, num_known

    def _key(self, token_ids: Ids, start: int = 0) -> Ids:
        """Return what a run is found by among others: its first token, or all where none may be cut in two."""
        return token_ids[start:] if self.whole_prompts_only else token_ids[start : start + 1]

    def _split(self, node: _Node, at: int) -> _Node:
        """Cut a node in two; return the first part, which takes its place."""
        parent = node.parent or self._root
        head_states = tuple((_copy(keys, 0, at), _copy(values, 0, at)) for keys, values in node.states)
        head = _Node(node.token_ids[:at], head_states, parent, {o: h for o, h in node.gating.items() if o < at})
        self._forget(node)
        node.token_ids = node.token_ids[at:]
        node.states = tuple((_copy(keys, at), _copy(values, at)) for keys, values in node.states)
        node.gating = {offset - at: hidden for offset, hidden in node.gating.items() if offset >= at}
        self._add(head)
        node.parent = head
        self._add(node)
        self._touch([head, node])
        return head

    def _add(self, node: _Node) -> _Node:
        parent = node.parent or self._root
        parent.children[self._key(node.token_ids)] = node
        self._by_use[node] = None
        self.num_tokens += len(node.token_ids)
        self.num_bytes += node.num_bytes
        return node

    def _forget(self, node: _Node) -> None:
        parent = node.parent or self._root
        del parent.children[self._key(node.token_ids)], self._by_use[node]
        self.num_tokens -= len(node.token_ids)
        self.num_bytes -= node.num_bytes

    def _remember_gating(self, path: Sequence[_Node], gating_index: int, hidden_D: torch.Tensor) -> None:
        node, offset = _place(path, gating_index)
        if offset not in node.gating:
            node.gating[offset] = hidden_D.clone()
            self.num_bytes += hidden_D.numel() * hidden_D.element_size()

    def _touch(self, path: Sequence[_Node]) -> None:
        for node in reversed(path):
            self._by_use.move_to_end(node)

    def _shrink(self) -> None:
        while self.num_bytes > self.budget_bytes:
            oldest = next(iter(self._by_use))
            self.num_evictions += 1
            self._forget(oldest)


def default_budget_bytes(device: torch.device) -> int:
    """Return how many bytes to remember prompts in where nobody has said."""
    if device.type != "cuda":
        return CPU_BUDGET_BYTES
    return int(torch.cuda.mem_get_info(device)[0] * FREE_SHARE)


def _place(path: Sequence[_Node], index: int) -> tuple[_Node, int]:
    """Return the node of a path that holds a token, and the token's offset in its run."""
    for node in path:
        if index < len(node.token_ids):
            return node, index
        index -= len(node.token_ids)
    raise ValueError("the token lies beyond the path. This is a bug.")


def _gating(path: Sequence[_Node], gating_index: int) -> torch.Tensor | None:
    node, offset = _place(path, gating_index)
    return node.gating.get(offset)


def _runs(path: Sequence[_Node], num_tokens: int) -> tuple[tuple[States, ...], ...]:
    """Return the states of the first tokens of a path, per node and layer."""
    runs: list[tuple[States, ...]] = []
    for node in path:
        if num_tokens <= 0:
            break
        if num_tokens < len(node.token_ids):
            runs.append(tuple((keys[:, :, :num_tokens], values[:, :, :num_tokens]) for keys, values in node.states))
        else:
            runs.append(node.states)
        num_tokens -= len(node.token_ids)
    return tuple(runs)


def _num_alike(one: Ids, other: Ids) -> int:
    """Return how many tokens both begin with, by bisection: runs are compared faster than token by token."""
    num_alike, least_unlike = 0, min(len(one), len(other)) + 1
    middle = least_unlike - 1
    while least_unlike - num_alike > 1:
        if one[num_alike:middle] == other[num_alike:middle]:
            num_alike = middle
        else:
            least_unlike = middle
        middle = (num_alike + least_unlike) // 2
    return num_alike


def _copy(states: torch.Tensor, start: int, stop: int | None = None) -> torch.Tensor:
    return states[:, :, start:stop].clone(memory_format=torch.contiguous_format)
