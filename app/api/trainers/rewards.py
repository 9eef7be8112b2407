"""From what a trainer's request asks for to one reward per response, and the numbers beside it worth logging.

Knows no wire format. A reward is a number or the request fails: nothing stands in for one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from app.api.intensities import Aimed, Levels, TargetsOption, aim
from app.api.state import ServedModel
from app.api.trainers.options import TrainerOptions
from app.api.views import floats, item_scores, rewards_of
from app.domain import IntensityHead, Item, ModelInfo
from app.errors import InvalidConversation, NotInTheseWeights, PreferenceRequired
from app.preferences import PreferenceDirection, preference_direction
from app.reward_mapping import expected_intensity, levels_of, mapped_reward
from app.serving.service import ItemReadouts
from app.text.foreign_templates import Oddity


@dataclass(frozen=True, slots=True)
class Rewarded:
    """One response's reward, what the model says beside it, and how its conversation came to be read."""

    reward: float
    objectives: dict[str, float]
    """Every objective's raw reward, in their order."""
    intensities: dict[str, float]
    """With `targets`, every head's expected level."""
    num_tokens: int
    """Of its conversation, prompt and response."""
    oddities: tuple[Oddity, ...] = ()

    @property
    def logs(self) -> dict[str, float]:
        """All of it by name, for those who log: objectives, then `intensity/<head>`."""
        return self.objectives | {f"intensity/{name}": level for name, level in self.intensities.items()}


@dataclass(frozen=True, slots=True)
class ScoreScale:
    """Mean and standard deviation of the weights' own score on reference data."""

    mean: float
    std: float


@dataclass(frozen=True, slots=True)
class RewardRule:
    """What the reward is: mapped intensities, a direction over objectives, or the score, on a scale or not."""

    info: ModelInfo
    targets: TargetsOption = None
    direction: PreferenceDirection | None = None
    scale: ScoreScale | None = None

    def aim(self, item: Item) -> Aimed:
        """Return the item as the model should see it, and the levels it is rewarded for.

        Raises:
            InvalidConversation: its prompt should name targets and names none, so there is no reward.
            UnknownName: it names a head or level that these weights do not have.
        """
        aimed = aim(item, self.targets, self.info.heads)
        if self.targets is not None and not aimed[1]:
            raise InvalidConversation("the prompt names no target like <helpfulness 5>, so there is no reward")
        return aimed

    def apply(self, item: ItemReadouts, levels: Levels | None) -> Rewarded:
        """Return the reward of an item's one response.

        Raises:
            NonFiniteReadout: a value is not a finite number.
        """
        objectives = dict(zip(self.info.objective_names, floats(rewards_of(item)[0]), strict=True))
        num_tokens = item.prompt_tokens + item.response_tokens[0]
        if levels is None:
            return Rewarded(self._scalar(item), objectives, {}, num_tokens)
        intensities = item.readouts[0].intensities
        expected = {name: floats(expected_intensity(one_C)) for name, one_C in intensities.items()}
        reward = floats(mapped_reward(intensities, levels, self.info.heads))
        return Rewarded(reward, objectives, expected, num_tokens)

    def _scalar(self, item: ItemReadouts) -> float:
        scores_R = item_scores(item, self.direction)
        if scores_R is None:
            raise ValueError("weights without a scalar need a direction. This is a bug.")
        score: float = floats(scores_R)[0]
        return score if self.scale is None else (score - self.scale.mean) / self.scale.std


def reward_rule(options: TrainerOptions, model: ServedModel) -> RewardRule:
    """Return what these options make the reward for these weights.

    Raises:
        NotInTheseWeights: targets without heads, or a normal scale without reference quantiles.
        UnknownName, MalformedBody: a head, level, objective or direction that these weights do not take.
        PreferenceRequired: several objectives and no way to a scalar.
    """
    info = model.info
    if options.targets is not None:
        _check_targets(options.targets, info.heads)
        return RewardRule(info, targets=options.targets)
    if options.preference is not None:
        direction = preference_direction(options.preference, info.objective_names, info.composites)
        return RewardRule(info, direction=direction)
    if options.is_normalised:
        return RewardRule(info, scale=_score_scale(info))
    if info.has_scalar:
        return RewardRule(info)
    if model.default_direction is None:
        names = ", ".join([*info.objective_names, *info.composites])
        raise PreferenceRequired(
            f"these weights have several objectives and no gating: give ?preference=name:weight over {names}"
        )
    return RewardRule(info, direction=model.default_direction)


def scale_of(quantiles: Sequence[float]) -> ScoreScale:
    """Return mean and std of the distribution whose quantile function runs straight between these (evenly spaced, 0…1).

    Between q and r it is uniform there: mean (q + r) / 2, mean square (q² + qr + r²) / 3.
    """
    values = np.asarray(quantiles, dtype=np.float64)
    lower, upper = values[:-1], values[1:]
    mean = float(np.mean((lower + upper) / 2))
    from_mean, to_mean = lower - mean, upper - mean
    variance = float(np.mean((from_mean**2 + from_mean * to_mean + to_mean**2) / 3))
    return ScoreScale(mean, variance**0.5)


def _score_scale(info: ModelInfo) -> ScoreScale:
    if not info.has_scalar or len(info.score_quantiles) < 2:
        raise NotInTheseWeights("these weights have no reference quantiles of their score, which normalise=score needs")
    scale = scale_of(info.score_quantiles)
    if scale.std <= 0:
        raise NotInTheseWeights("the reference scores of these weights are all equal, so none has a scale")
    return scale


def _check_targets(targets: TargetsOption, heads: Sequence[IntensityHead]) -> None:
    if not heads:
        raise NotInTheseWeights("these weights have no MOSLIM heads, which targets need")
    if targets is not None and targets != "prefix":
        levels_of(targets, heads)
