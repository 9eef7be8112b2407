"""`/moslim-classify`: intensity heads and the mapped reward. Pure, save that it reads prefixes off prompts.

C intensity classes of a head
"""

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

from app.api.answers import ClassifiedResponse, HeadAnswer, MoslimResult
from app.api.views import floats
from app.domain import FloatArray, IntensityHead, Item, Readout
from app.errors import ArmoserveError
from app.reward_mapping import Level, classified_intensity, expected_intensity, levels_of, mapped_reward
from app.serving.service import ItemReadouts
from app.text.intensity_prefix import split_intensity_prefix

Levels: TypeAlias = Mapping[str, int]
TargetsOption: TypeAlias = Mapping[str, Level] | Literal["prefix"] | None
Aimed: TypeAlias = tuple[Item, Levels | None]
"""An item as the reward model sees it, and the levels it is rewarded for."""


def aim(item: Item, targets: TargetsOption, heads: Sequence[IntensityHead]) -> Aimed:
    """Settle the targets of an item; with `prefix` they are read off its prompt, which is stripped of them.

    Raises:
        UnknownName: a head or level that these weights do not have.
        InvalidConversation: a head named twice.
    """
    if targets is None:
        return item, None
    if targets == "prefix":
        prompt, levels = split_intensity_prefix(item.prompt, heads)
        return Item(prompt, item.responses), levels
    return item, levels_of(targets, heads)


def aim_or_error(
    item: Item | ArmoserveError, targets: TargetsOption, heads: Sequence[IntensityHead]
) -> Aimed | ArmoserveError:
    """Like `aim`, with an item's error in its place."""
    if isinstance(item, ArmoserveError):
        return item
    try:
        return aim(item, targets, heads)
    except ArmoserveError as error:
        return error


def moslim_result(item: ItemReadouts, targets: Levels | None, heads: Sequence[IntensityHead]) -> MoslimResult:
    """Return the class probabilities of each response, and its mapped reward where there are targets (Eq. 11)."""
    return {
        "responses": [_classified(readout, targets, heads) for readout in item.readouts],
        "targets": None if targets is None else dict(targets),
        "truncated": item.truncated,
    }


def _classified(readout: Readout, targets: Levels | None, heads: Sequence[IntensityHead]) -> ClassifiedResponse:
    return {
        "heads": {name: _head_answer(probabilities_C) for name, probabilities_C in readout.intensities.items()},
        # A prompt without a prefix names no target: then there is no reward, which is not a reward of 0.
        "reward": floats(mapped_reward(readout.intensities, targets, heads)) if targets else None,
    }


def _head_answer(probabilities_C: FloatArray) -> HeadAnswer:
    return {
        "probabilities": floats(probabilities_C),
        "intensity": classified_intensity(probabilities_C),
        "expected": floats(expected_intensity(probabilities_C)),
    }
