"""The policy report's table of what policies learned: mapped reward and rank correlations. Knows results only."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from training.figures.markup import Element, figure, folded, table
from training.figures.numbers import NOTHING, signed, signed_interval
from training.policy.results import Controllability, Measured

Named = Mapping[str, Sequence[Controllability]]
"""By the name of policy and run: what its judges say."""
Seeds = Mapping[str, Named]
"""By the name of a policy: each of its seeds under a name of its own."""
REWARD: Final = "mapped reward"
OVER_SFT: Final = "over SFT"
CAPTION: Final = (
    "Mapped reward (MOSLIM, Eq. 11) for what each prefix asks for, which the judge sees beside the prompt only: a mean "
    "over all that is asked for, in the judge's own units, so that it compares policies and not judges. Over SFT: by "
    "how much it is above the SFT policy's on the same prompts; an interval above 0 is a rise. ρ: rank correlation of "
    "the level asked for and the level got. Of one seed, the 95% interval from resampling prompts; of several, their "
    "mean and from where to where they lie."
)


def learned(found: Seeds) -> list[Element]:
    """Lay out a row per policy and judge; where a policy has several seeds, also a row for each of them."""
    drawn = [figure("What the policies learned", CAPTION, _table(found))]
    if all(len(seeds) == 1 for seeds in found.values()):
        return drawn
    apart = {name: {name: judges} for seeds in found.values() for name, judges in seeds.items()}
    return [*drawn, folded("What the policies learned, seed by seed", _table(apart))]


def _table(found: Seeds) -> Element:
    every = [seen for seeds in found.values() for judges in seeds.values() for seen in judges]
    heads = dict.fromkeys(dimension.name for seen in every for dimension in seen.dimensions)
    quantities: dict[str, Callable[[Controllability], Measured | None]] = {
        REWARD: lambda seen: seen.reward,
        OVER_SFT: lambda seen: seen.over_sft,
        **{f"ρ, {head}": _spearman_of(head) for head in heads},
    }
    rows = [
        (f"{policy}, judge: {judge}", *[_said([quantity(seen) for seen in seeds]) for quantity in quantities.values()])
        for policy, named in found.items()
        for judge, seeds in _by_judge(named).items()
    ]
    return table(("policy and judge", *quantities), rows)


def _spearman_of(head: str) -> Callable[[Controllability], Measured | None]:
    return lambda seen: next((each.spearman for each in seen.dimensions if each.name == head), None)


def _by_judge(seeds: Named) -> dict[str, list[Controllability]]:
    found: dict[str, list[Controllability]] = {}
    for judges in seeds.values():
        for seen in judges:
            found.setdefault(seen.judge, []).append(seen)
    return found


def _said(of_seeds: Sequence[Measured | None]) -> str:
    """Say a value with its interval, or the mean of several with their range."""
    known = [each for each in of_seeds if each is not None]
    if not known:
        return NOTHING
    if len(known) == 1:
        return f"{signed(known[0].value)} ({signed_interval(known[0])})"
    values = [each.value for each in known]
    mean, ends = sum(values) / len(values), f"{signed(min(values))} to {signed(max(values))}"
    return f"{signed(mean)} ({ends}, {len(known)} seeds)"
