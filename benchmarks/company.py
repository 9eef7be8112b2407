"""How far a score moves with what else is in its pack: in packs of several sizes, and where prompts are recalled.

Knows no clock.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from app.domain import FloatArray, Item, TokenizedConversation
from app.model.prefix_cache import PrefixCache
from app.model.reward_model import RewardModel
from app.pack_builder import PackBuilder
from training.inference import Encode

CACHE_BYTES: Final = 2**30
NO_LIMIT: Final = 10**9


@dataclass(frozen=True, slots=True)
class Moved:
    """Scores in packs of so many conversations, against the same ones alone and computed whole."""

    dtype: str
    company: int
    """Conversations in a pack; 1 is alone."""
    recalled: bool
    """Whether the prompts came out of the prefix cache."""
    conversations: int
    largest: float
    largest_in_deviations: float
    """In standard deviations of the scores."""
    mean: float
    share_changed: float
    """Of the conversations, those whose score is not the same to the last bit."""


def tokenised(items: Iterable[Item], encode: Encode, count: int, max_tokens: int) -> list[TokenizedConversation]:
    """Return so many conversations that are no longer than that, up to four to a prompt.

    Raises:
        SystemExit: the items have fewer.
    """
    found: list[TokenizedConversation] = []
    for item in items:
        encoded = encode(Item(item.prompt, item.responses[:4]))
        if encoded is not None:
            found += [one for one in encoded.conversations if one.num_tokens <= max_tokens]
        if len(found) >= count:
            return found[:count]
    raise SystemExit(f"{count} conversations of up to {max_tokens} tokens were asked for; the data has {len(found)}")


def scored_in_packs(
    model: RewardModel, given: Sequence[TokenizedConversation], company: int, budget_tokens: int = NO_LIMIT
) -> FloatArray:
    """Score so many at a time, in an order of their own, recalling what the model's cache has; (R,) as given.

    Raises:
        SystemExit: the weights give no score.
    """
    order = np.random.default_rng(company).permutation(len(given)).tolist()
    scores_R = np.empty(len(given), dtype=np.float32)
    while order:
        builder = PackBuilder(budget_tokens, recall=None if model.prefix_cache is None else model.prefix_cache.find)
        taken = [number for number in order[:company] if builder.try_add(given[number])]
        found = model.forward(builder.build()).scores_R
        if found is None:
            raise SystemExit("the weights have no score of their own; allowed: weights with a gating network")
        scores_R[taken] = found
        order = [number for number in order if number not in taken]
    return scores_R


def moved(model: RewardModel, given: Sequence[TokenizedConversation], companies: Sequence[int]) -> Iterator[Moved]:
    """Yield what company does to scores, first computed whole, then with every prompt recalled."""
    alone_R = scored_in_packs(model, given, 1)
    for company in companies:
        yield _compared(model, alone_R, company, scored_in_packs(model, given, company), recalled=False)
    for company in (1, *companies):
        model.prefix_cache = PrefixCache(CACHE_BYTES)
        # Prompts are remembered from packs of this size, and recalled in others of it.
        scored_in_packs(
            model, [TokenizedConversation(one.prefix_ids, (1,), one.gating_index) for one in given], company
        )
        found_R = scored_in_packs(model, given, company)
        model.prefix_cache = None
        yield _compared(model, alone_R, company, found_R, recalled=True)


def _compared(model: RewardModel, alone_R: FloatArray, company: int, found_R: FloatArray, *, recalled: bool) -> Moved:
    differences_R = np.abs(found_R - alone_R)
    return Moved(
        dtype=model.info.dtype,
        company=company,
        recalled=recalled,
        conversations=len(alone_R),
        largest=float(differences_R.max()),
        largest_in_deviations=float(differences_R.max() / alone_R.std()),
        mean=float(differences_R.mean()),
        share_changed=float((differences_R > 0).mean()),
    )


def num_changed(model: RewardModel, given: Sequence[TokenizedConversation], pack_tokens: int, company: int) -> int:
    """Return how many scores change by a bit in company under `batch_invariant`: none, if it keeps its promise."""
    model.invariant_pack_tokens = pack_tokens
    alone_R = scored_in_packs(model, given, 1, pack_tokens)
    together_R = scored_in_packs(model, given, company, pack_tokens)
    model.invariant_pack_tokens = None
    return int((alone_R != together_R).sum())
