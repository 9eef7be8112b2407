"""Is it right on this device? Every family packed against one by one, cached against not, in company against alone.

The reference is transformers' own decoder, plain attention, one conversation at a time, in float32. In half precision
nothing is exact, so packs may err as much as transformers itself does in that type, and half as much again.

R conversations · K objectives
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final
from unittest.mock import patch

import numpy as np
import torch

from app.domain import FloatArray, TokenizedConversation
from app.model import reward_model
from app.model.prefix_cache import PrefixCache
from app.model.reward_model import RewardModel
from app.model.staging import to_host
from app.pack_builder import PackBuilder
from benchmarks.decoder_configs import FAMILIES, TINY, config_of
from benchmarks.gpu.models import (
    numbers_of,
    random_ids,
    random_model,
    recall_of,
    unpacked_numbers,
)
from benchmarks.gpu.rows import Row

FLOAT32_LIMIT: Final = 5e-5
"""Largest difference of any number, in its spread over the conversations."""
HALF_PRECISION_SHARE: Final = 1.5
INVARIANT_TOKENS: Final = 2048
BUDGET_TOKENS: Final = 700
"""So little that the conversations make several packs."""
CACHE_BYTES: Final = 2**30


def check_all(device: torch.device) -> Iterator[Row]:
    """Check what figures are worth nothing without."""
    for family in FAMILIES:
        yield from check_family(family, device)
    for dtype in (torch.float32, torch.bfloat16):
        model = random_model(config_of("llama", TINY), device, dtype)
        yield check_company(model)
    yield check_that_nobody_waits(random_model(config_of("llama", TINY), device, torch.bfloat16))


def conversations(count: int = 24, seed: int = 0) -> list[TokenizedConversation]:
    """Draw conversations that share prompts, of 1 to 200 tokens either way."""
    random = np.random.default_rng(seed)

    def ids(longest: int) -> tuple[int, ...]:
        return random_ids(random, TINY["vocab_size"], int(random.integers(1, longest)))

    prompts = [ids(200) for _ in range(count // 4)]
    return [
        TokenizedConversation(prompt, ids(150), len(prompt) // 2)
        for number in range(count)
        for prompt in [prompts[number % len(prompts)]]
    ]


def packed_numbers(
    model: RewardModel, given: Sequence[TokenizedConversation], budget_tokens: int = BUDGET_TOKENS
) -> FloatArray:
    """Score in packs, in the order given, recalling what the model's cache has."""
    waiting, numbers = list(given), []
    while waiting:
        builder = PackBuilder(budget_tokens, recall=recall_of(model))
        while waiting and builder.try_add(waiting[0]):
            del waiting[0]
        numbers.append(numbers_of(model.forward(builder.build())))
    return np.concatenate(numbers)


def check_family(family: str, device: torch.device) -> Iterator[Row]:
    """Compare packs, and packs with recalled prompts, with the reference, in both types."""
    config, given = config_of(family, {**TINY, **FAMILIES[family]}), conversations()
    exact = random_model(config, device, torch.float32)
    expected = unpacked_numbers(exact, given, 1, "eager")
    spread = expected.std(axis=0)

    def error(found: FloatArray) -> FloatArray:
        difference: FloatArray = (found - expected) / spread
        return difference

    half = random_model(config, device, torch.bfloat16)
    root_mean_square = float(np.sqrt((error(unpacked_numbers(half, given, 1, "eager")) ** 2).mean()))
    for model, dtype in ((exact, "float32"), (half, "bfloat16")):
        for what, found in _packed_and_recalled(model, given):
            if dtype == "float32":
                largest, limit = float(np.abs(error(found)).max()), FLOAT32_LIMIT
            else:
                largest, limit = float(np.sqrt((error(found) ** 2).mean())), HALF_PRECISION_SHARE * root_mean_square
            how = "largest difference" if dtype == "float32" else "root mean square"
            yield _verdict(
                f"{family}, {dtype}: {what}", f"{how} from one by one in float32, in spreads", largest, limit
            )


def _packed_and_recalled(
    model: RewardModel, given: Sequence[TokenizedConversation]
) -> Iterator[tuple[str, FloatArray]]:
    yield "packed", packed_numbers(model, given)
    model.prefix_cache = PrefixCache(CACHE_BYTES)
    packed_numbers(model, [TokenizedConversation(one.prefix_ids, (1,), one.gating_index) for one in given])
    yield "prompts recalled", packed_numbers(model, given)
    model.prefix_cache = None


def check_company(model: RewardModel) -> Row:
    """Score conversations of any length alone, in other packs, in other orders: with one pack length, the same bits."""
    given = conversations(32, seed=1)
    given += [TokenizedConversation(one.prefix_ids, (2,), one.gating_index) for one in given[:4]]
    model.invariant_pack_tokens = INVARIANT_TOKENS
    alone = np.concatenate([packed_numbers(model, [one]) for one in given])
    differing = 0
    for seed, budget_tokens in enumerate((500, 1000, INVARIANT_TOKENS)):
        order = np.random.default_rng(seed).permutation(len(given))
        found = np.empty_like(alone)
        found[order] = packed_numbers(model, [given[number] for number in order], budget_tokens)
        differing += int((found.view(np.int32) != alone.view(np.int32)).any(axis=1).sum())
    model.prefix_cache = PrefixCache(CACHE_BYTES, whole_prompts_only=True)
    for _ in range(2):
        differing += int((packed_numbers(model, given).view(np.int32) != alone.view(np.int32)).any(axis=1).sum())
    model.invariant_pack_tokens = model.prefix_cache = None
    goal = f"llama, {model.info.dtype}: batch_invariant"
    return _verdict(goal, "conversations of which a bit differs in company, five packings", float(differing), 0.0)


def check_that_nobody_waits(model: RewardModel) -> Row:
    """Run forward passes in which torch fails at the first wait for the device, up to the one that brings answers."""
    goal, how = "no wait inside a forward", "torch.cuda.set_sync_debug_mode('error') up to the readout; waits seen"
    if model.device.type != "cuda":
        return Row(goal, how, "0", "not measured", next="needs CUDA")
    model.prefix_cache = PrefixCache(CACHE_BYTES)
    packed_numbers(model, conversations(seed=2))  # first calls load kernels and take pinned memory, which may wait
    waits = 0
    for invariant_tokens in (None, INVARIANT_TOKENS):
        model.invariant_pack_tokens = invariant_tokens
        packed_numbers(model, conversations(seed=3))
        try:
            with _waiting_forbidden():
                packed_numbers(model, conversations(seed=2) + conversations(seed=4))
        except Exception as error:
            print(f"a forward pass waited for the device: {error.__cause__ or error}")
            waits += 1
    model.invariant_pack_tokens = model.prefix_cache = None
    return _verdict(goal, how, float(waits), 0.0)


@contextmanager
def _waiting_forbidden() -> Iterator[None]:
    def readout(tensors: Any) -> Any:
        torch.cuda.set_sync_debug_mode("default")
        try:
            return to_host(tensors)
        finally:
            torch.cuda.set_sync_debug_mode("error")

    torch.cuda.set_sync_debug_mode("error")
    try:
        with patch.object(reward_model, "to_host", readout):
            yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _verdict(goal: str, how: str, found: float, limit: float) -> Row:
    figures = {"found": found, "limit": limit}
    return Row(goal, how, f"≤ {limit:.2g}", f"{found:.2g}", is_met=bool(found <= limit), figures=figures)
