"""How fast: packs against the matrix-product ceiling, lone requests, packs against padded batches, what modes cost.

Everything is timed from numpy to numpy: `RewardModel.forward`, as the engine calls it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import torch
from torch import nn

from app.domain import TokenizedConversation
from app.model.prefix_cache import PrefixCache
from app.model.reward_model import RewardModel
from app.pack_builder import PackBuilder, pack_of
from app.packing import Pack
from benchmarks.gpu.clock import Deadline, median_seconds, side_by_side
from benchmarks.gpu.models import random_ids, recall_of, unpacked_numbers
from benchmarks.gpu.rows import Row
from benchmarks.padded import padded_tokens
from benchmarks.workloads import Workload, best_of_n, mixed_lengths, random_pool

BATCH_SIZE: Final = 16
GROUP_TOKENS: Final = 1024
RESPONSES: Final = 8
CACHE_BYTES: Final = 8 * 2**30


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What this device can do, measured in this run."""

    flop_per_second: float
    """Of matrix products in the model's type."""
    bytes_per_second: float
    """Read and written by a large copy."""


@dataclass(frozen=True, slots=True)
class Scene:
    """The model that is measured, and how long."""

    model: RewardModel
    ceilings: Ceilings
    deadline: Deadline
    pack_sizes: tuple[int, ...]
    request_tokens: int
    rounds: int
    is_tiny: bool = False

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def name(self) -> str:
        return "tiny" if self.is_tiny else "8B"

    @property
    def largest_pack(self) -> int:
        return self.pack_sizes[-1]

    @property
    def flop_a_token(self) -> float:
        """Of the linear layers; attention comes on top, 2% of it at 1,000 tokens."""
        return 2.0 * _linear_parameters(self.model)

    def pack(self, num_tokens: int, seed: int = 0) -> Pack:
        """Return a pack of exactly so many tokens: groups of one prompt and eight responses, three times its length."""
        random, vocabulary, given = np.random.default_rng(seed), self.model.vocabulary_size, []
        while num_tokens:
            group = min(num_tokens, GROUP_TOKENS)
            prompt = random_ids(random, vocabulary, group // 4)
            lengths = np.diff(np.linspace(0, group - len(prompt), RESPONSES + 1).astype(int))
            given += [TokenizedConversation(prompt, random_ids(random, vocabulary, n), 1) for n in lengths.tolist()]
            num_tokens -= group
        return pack_of(given)

    def request(self, seed: int = 0) -> TokenizedConversation:
        """Return one conversation of the length of a request."""
        random, vocabulary = np.random.default_rng(seed), self.model.vocabulary_size
        prompt = random_ids(random, vocabulary, self.request_tokens * 3 // 5)
        response = random_ids(random, vocabulary, self.request_tokens - len(prompt))
        return TokenizedConversation(prompt, response, 1)


def measure_ceilings(device: torch.device, dtype: torch.dtype, size: int, rounds: int) -> Ceilings:
    """Time large matrix products of random numbers, of the shapes that 8B models have, and a copy."""
    rates = []
    for shape in ((size, size, size), (2 * size, size // 2, size * 7 // 4), (2 * size, size * 7 // 4, size // 2)):
        rows, inner, columns = shape
        left = torch.randn(rows, inner, device=device, dtype=dtype)
        right = torch.randn(columns, inner, device=device, dtype=dtype)
        taken = median_seconds(device, partial(nn.functional.linear, left, right), rounds)
        rates.append(2.0 * rows * inner * columns / taken)
    source = torch.randn(size, size * 8, device=device)
    target = torch.empty_like(source)
    taken = median_seconds(device, lambda: target.copy_(source), rounds)
    return Ceilings(max(rates), 2.0 * source.numel() * source.element_size() / taken)


def measure_packs(scene: Scene) -> Iterator[Row]:
    """Yield tokens a second for every size of pack; the largest has the target."""
    for size in scene.pack_sizes:
        packs = [scene.pack(size, seed) for seed in range(2)]  # never the same one twice in a row
        work = [partial(scene.model.forward, pack) for pack in packs]
        taken = min(side_by_side(scene.device, work, scene.rounds))
        tokens_a_second = size / taken
        share = tokens_a_second * scene.flop_a_token / scene.ceilings.flop_per_second
        is_goal = size == scene.largest_pack
        yield Row(
            f"{scene.name}, random weights: packs of {size:,} tokens",
            "model FLOP utilisation of the measured matrix-product ceiling",
            "≥ 70%, then 80%" if is_goal else "–",
            f"{share:.0%}; {tokens_a_second:,.0f} tokens/s, {1000 * taken:.1f} ms",
            is_met=bool(share >= 0.7) if is_goal else None,
            figures={"tokens_per_second": tokens_a_second, "utilisation": share, "seconds": taken},
        )


def measure_request(scene: Scene) -> Iterator[Row]:
    """Yield the median of one request alone, over what reading the weights or the arithmetic would take."""
    pack = pack_of([scene.request()])
    taken = median_seconds(scene.device, partial(scene.model.forward, pack), 3 * scene.rounds)
    reading = _linear_bytes(scene.model) / scene.ceilings.bytes_per_second
    computing = scene.request_tokens * scene.flop_a_token / scene.ceilings.flop_per_second
    ratio = taken / max(reading, computing)
    yield Row(
        f"{scene.name}, one {scene.request_tokens}-token request",
        f"median over max(reading {1000 * reading:.1f} ms, compute {1000 * computing:.1f} ms)",
        "≤ 1.5×",
        f"{ratio:.2f}×; {1000 * taken:.1f} ms",
        is_met=bool(ratio <= 1.5),
        figures={"ratio": ratio, "seconds": taken, "reading_seconds": reading, "computing_seconds": computing},
    )


def measure_against_padding(scene: Scene) -> Iterator[Row]:
    """Yield best-of-16 and mixed lengths against the same weights in padded batches, in alternating rounds."""
    pool = random_pool(scene.model.vocabulary_size)
    mixed = mixed_lengths(pool, BATCH_SIZE if scene.is_tiny else 4 * BATCH_SIZE)
    by_length = sorted(mixed.conversations, key=lambda one: one.num_tokens)
    yield _against_padding(scene, best_of_n(pool, BATCH_SIZE), "as they come")
    yield _against_padding(scene, mixed, "as they come")
    yield _against_padding(scene, Workload(mixed.name, mixed.description, by_length), "sorted by length")


def _against_padding(scene: Scene, workload: Workload, order: str) -> Row:
    given = workload.conversations
    packs = _packs(scene, given)

    def packed() -> None:
        for pack in packs:
            scene.model.forward(pack)

    def padded() -> None:
        unpacked_numbers(scene.model, given, BATCH_SIZE)

    packed_seconds, padded_seconds = side_by_side(scene.device, [packed, padded], scene.rounds)
    ratio = padded_seconds / packed_seconds
    tokens = padded_tokens(given, BATCH_SIZE) / sum(pack.num_tokens for pack in packs)
    return Row(
        f"{workload.name}, padded {order}",
        f"{workload.description}; against transformers' SDPA in padded batches of {BATCH_SIZE}",
        f"≥ 0.9 × the token ratio {tokens:.2f}",
        f"{ratio:.2f}× ({ratio / tokens:.2f} of the token ratio); {1000 * packed_seconds:.1f} ms",
        is_met=bool(ratio >= 0.9 * tokens),
        figures={"time_ratio": ratio, "token_ratio": tokens, "packed_seconds": packed_seconds},
    )


def measure_cache(scene: Scene) -> Iterator[Row]:
    """Yield what a prompt seen again costs: groups computed whole, keeping their prompts, and then recalled."""
    model, given = scene.model, []
    random = np.random.default_rng(5)
    prompt_tokens, response_tokens = scene.largest_pack // 32, scene.largest_pack // 128
    for _ in range(BATCH_SIZE):
        prompt = random_ids(random, model.vocabulary_size, prompt_tokens)
        response = random_ids(random, model.vocabulary_size, response_tokens)
        given.append(TokenizedConversation(prompt, response, 1))
    without = _packs(scene, given)
    model.prefix_cache = PrefixCache(CACHE_BYTES)

    def cold() -> None:
        model.prefix_cache = PrefixCache(CACHE_BYTES)
        _forward(scene, given)

    plain_seconds, cold_seconds = side_by_side(
        scene.device, [lambda: [model.forward(pack) for pack in without], cold], scene.rounds
    )
    warm = _packs(scene, given)
    warm_seconds = median_seconds(scene.device, lambda: _forward(scene, given), scene.rounds)
    model.prefix_cache = None
    computed = sum(pack.num_tokens for pack in warm)
    yield Row(
        "the prompt seen again later",
        f"{BATCH_SIZE} prompts of {prompt_tokens} tokens with a response of {response_tokens} each; tokens computed",
        f"responses only: {BATCH_SIZE * response_tokens:,}",
        f"{computed:,}; {1000 * plain_seconds:.1f} ms uncached, {1000 * cold_seconds:.1f} ms when first seen, "
        f"{1000 * warm_seconds:.1f} ms recalled",
        is_met=computed == BATCH_SIZE * response_tokens,
        figures={"plain_seconds": plain_seconds, "cold_seconds": cold_seconds, "warm_seconds": warm_seconds},
    )


def measure_invariance(scene: Scene) -> Iterator[Row]:
    """Yield what the same bits in any company cost, in a full pack and in one request alone."""
    model = scene.model
    full, alone = scene.pack(scene.largest_pack), pack_of([scene.request()])
    fast = [median_seconds(scene.device, partial(model.forward, pack), scene.rounds) for pack in (full, alone)]
    model.invariant_pack_tokens = scene.largest_pack
    same = [median_seconds(scene.device, partial(model.forward, pack), scene.rounds) for pack in (full, alone)]
    model.invariant_pack_tokens = None
    yield Row(
        "batch_invariant",
        f"time over the fast mode's, packs of {scene.largest_pack:,} tokens: full, and one request alone",
        "–",
        f"{same[0] / fast[0]:.2f}× full, {same[1] / fast[1]:.1f}× alone ({1000 * same[1]:.0f} ms)",
        figures={"full_ratio": same[0] / fast[0], "alone_ratio": same[1] / fast[1]},
    )


def measure_memory(scene: Scene) -> Iterator[Row]:
    """Yield whether the device's memory stays as it is over packs of all sizes."""
    goal, how, target = "memory", "allocated after 60 packs of any size, over after 10", "flat"
    if scene.device.type != "cuda":
        yield Row(goal, how, target, "not measured", next="needs CUDA")
        return
    allocated = []
    random = np.random.default_rng(6)
    for number, size in enumerate(random.integers(64, scene.largest_pack // 4, size=60).tolist()):
        scene.model.forward(scene.pack(size, number))
        allocated.append(torch.cuda.memory_allocated(scene.device))
    growth = allocated[-1] - allocated[9]
    peak = torch.cuda.max_memory_allocated(scene.device) / 2**30
    measured = f"{growth:+,} bytes; peak {peak:.1f} GiB"
    yield Row(goal, how, target, measured, is_met=growth <= 0, figures={"growth_bytes": growth, "peak_gib": peak})


def _builder(scene: Scene) -> PackBuilder:
    longest: int = scene.model.info.max_conversation_tokens
    return PackBuilder(scene.largest_pack, max_tokens=longest, recall=recall_of(scene.model))


def _packs(scene: Scene, given: list[TokenizedConversation]) -> list[Pack]:
    builders = [_builder(scene)]
    for conversation in given:
        if not builders[-1].try_add(conversation):
            builders.append(_builder(scene))
            builders[-1].try_add(conversation)
    return [builder.build() for builder in builders]


def _forward(scene: Scene, given: list[TokenizedConversation]) -> None:
    for pack in _packs(scene, given):
        scene.model.forward(pack)


def linear_weights(model: RewardModel) -> list[torch.Tensor]:
    """Return the weights of the decoder's linear layers: all that every token goes through."""
    return [module.weight for module in model.backbone.modules() if isinstance(module, nn.Linear)]


def _linear_parameters(model: RewardModel) -> int:
    return sum(weight.numel() for weight in linear_weights(model))


def _linear_bytes(model: RewardModel) -> int:
    return sum(weight.numel() * weight.element_size() for weight in linear_weights(model))
