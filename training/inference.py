"""Text to packs, offline: joins the tokenizer and the packs for every stage that runs the backbone.

Knows no loss, no objective and no file format.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from tqdm import tqdm

from app.domain import Item, TokenizedItem
from app.errors import InvalidConversation, TooManyTokens
from app.model.backbone import Backbone
from app.pack_builder import PackBuilder, pack_of
from app.packing import Pack
from app.text.tokenization import load_tokenizer
from training.base import gating_token_of

Argument = TypeVar("Argument")
Result = TypeVar("Result")

Encode = Callable[[Item], TokenizedItem | None]
"""Tokenizes one item; None where a response alone is over the limit."""


def encoder(tokenizer_folder: Path, max_conversation_tokens: int) -> Encode:
    """Load a tokenizer as a function of one item; prompts lose their beginning where a conversation is too long."""
    token = gating_token_of(tokenizer_folder)
    tokenizer = load_tokenizer(tokenizer_folder, gating_token=token, max_conversation_tokens=max_conversation_tokens)

    def encode(item: Item) -> TokenizedItem | None:
        try:
            return tokenizer.encode(item, "prompt_left")
        except (TooManyTokens, InvalidConversation):  # some templates take no system message
            return None

    return encode


def encode_items(
    tokenizer_folder: Path, items: Sequence[Item], max_conversation_tokens: int
) -> list[TokenizedItem | None]:
    """Tokenize items; None where a response alone is over the limit. Shows a progress bar."""
    encode = encoder(tokenizer_folder, max_conversation_tokens)
    return [encode(item) for item in tqdm(items, desc="tokenize", unit="item", leave=False)]


def one_ahead(function: Callable[[Argument], Result], arguments: Iterable[Argument]) -> Iterator[Result]:
    """Yield a function's results in order, the next being computed in a thread while the last is used."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        waiting: deque[Future[Result]] = deque()
        for argument in arguments:
            waiting.append(thread.submit(function, argument))
            if len(waiting) > 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def num_tokens(item: TokenizedItem) -> int:
    """Return how many tokens a pack of this item alone would have."""
    return pack_builder_of(item).num_tokens


def pack_builder_of(item: TokenizedItem) -> PackBuilder:
    builder = PackBuilder(sum(conversation.num_tokens for conversation in item.conversations))
    for conversation in item.conversations:
        builder.try_add(conversation)
    return builder


def plan_packs(lengths: Sequence[int], order: Sequence[int], token_budget: int) -> list[list[int]]:
    """Cut an order of items into packs within a token budget; an item over the budget is alone in its pack."""
    packs: list[list[int]] = []
    used = token_budget + 1
    for index in order:
        if used + lengths[index] > token_budget:
            packs.append([])
            used = 0
        packs[-1].append(index)
        used += lengths[index]
    return packs


def plan_epochs(lengths: Sequence[int], epochs: float, token_budget: int, seed: int) -> list[list[int]]:
    """Plan shuffled packs for a number of epochs, which need not be whole."""
    generator = np.random.default_rng(seed)
    plan: list[list[int]] = []
    remaining = epochs
    while remaining > 0:
        packs = plan_packs(lengths, generator.permutation(len(lengths)).tolist(), token_budget)
        plan += packs[: max(1, round(len(packs) * min(1.0, remaining)))]
        remaining -= 1
    return plan


def pack_items(items: Sequence[TokenizedItem]) -> Pack:
    """Lay out whole items; responses keep their order."""
    return pack_of([conversation for item in items for conversation in item.conversations])


def token_bar(total_tokens: int, description: str, done_tokens: int = 0) -> "tqdm[None]":
    """Return a progress bar that counts tokens and so shows tokens per second and the time left."""
    return tqdm(total=total_tokens, initial=done_tokens, desc=description, unit="tok", unit_scale=True, mininterval=1.0)


def autocast(device_type: str = "cpu", *, enabled: bool) -> AbstractContextManager[object]:
    """Compute matrix products in bfloat16 where asked to; parameters stay as they are."""
    return torch.autocast(device_type, dtype=torch.bfloat16, enabled=enabled)


def hidden_states(backbone: Backbone, pack: Pack) -> torch.Tensor:
    """Return the hidden states (T, D) of one pack, differentiable."""
    device = next(backbone.parameters()).device
    token_ids_T, position_ids_T = (torch.from_numpy(ids).to(device) for ids in (pack.token_ids_T, pack.position_ids_T))
    hidden_TD: torch.Tensor = backbone(token_ids_T, position_ids_T, pack.segments)
    return hidden_TD


def features_of(hidden_TD: torch.Tensor, pack: Pack) -> tuple[torch.Tensor, torch.Tensor]:
    """Return f(x⊕y) per response, (R, D), and f(x) per prompt, (P, D), in float32."""
    features_RD = hidden_TD[torch.from_numpy(pack.reward_indices_R)].float()
    return features_RD, hidden_TD[torch.from_numpy(pack.gating_indices_P)].float()


def iterate(plan: Sequence[Sequence[int]], items: Sequence[TokenizedItem], description: str) -> Iterator[Pack]:
    """Yield the packs of a plan, with a progress bar in tokens."""
    total = sum(num_tokens(items[index]) for indices in plan for index in indices)
    with token_bar(total, description) as bar:
        for indices in plan:
            pack = pack_items([items[index] for index in indices])
            yield pack
            bar.update(pack.num_tokens)
