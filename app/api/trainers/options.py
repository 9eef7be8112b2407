"""What the URL of a trainer's route asks for. Trainers fix the body, so all that can be chosen stands in the query.

Nothing unknown and nothing twice: a typo that is passed over would train a policy on another reward. Whether the
weights have the names given is for `rewards.py`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Final

from fastapi import Depends, Request

from app.api.intensities import TargetsOption
from app.api.query_options import one_of, pairs_of, refuse, weights_of
from app.errors import ConflictingOptions
from app.preferences import shown
from app.reward_mapping import Level
from app.text.turn_formats import KNOWN_FORMATS

OPTIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "targets": "Reward these intensities (MOSLIM, Eq. 11): `helpfulness:5,honesty:3`, or `prefix`: read from tags "
        "like `<helpfulness 5>` that the prompt begins with.",
        "preference": "Reward this direction over objectives and composites: `name:weight,name:weight`.",
        "normalise": "`score`: the weights' own score minus its mean over its standard deviation on reference data.",
        "template": f"What rendered the text: {', '.join(KNOWN_FORMATS)}; else the reward model's own template did.",
    }
)
LEVEL: Final = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class TrainerOptions:
    """The options of one request; without any, the reward is the weights' own score."""

    targets: TargetsOption = None
    preference: Mapping[str, float] | None = None
    is_normalised: bool = False
    template: str | None = None

    def __post_init__(self) -> None:
        given = [self.targets is not None, self.preference is not None, self.is_normalised]
        if sum(given) > 1:
            named = " and ".join(name for name, is_given in zip(OPTIONS, given, strict=False) if is_given)
            raise ConflictingOptions(f"the query has {named}, and each says what the reward is: give one of them")


def options_of(request: Request) -> TrainerOptions:
    """Read the options of a trainer's request off its URL.

    Raises:
        MalformedBody: an option that there is none of, one given twice, or a value that is not allowed.
        ConflictingOptions: two of them say what the reward is.
    """
    given: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in OPTIONS:
            refuse(shown(name), f"there is no such option; the query takes {', '.join(OPTIONS)}")
        if name in given:
            refuse(name, "is given twice")
        given[name] = value.strip()
    return TrainerOptions(
        targets=_targets(given["targets"]) if "targets" in given else None,
        preference=weights_of("preference", given["preference"]) if "preference" in given else None,
        is_normalised="normalise" in given and one_of("normalise", given["normalise"], ["score"]) == "score",
        template=one_of("template", given["template"], list(KNOWN_FORMATS)) if "template" in given else None,
    )


def query_parameters(examples: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the options as parameters of the OpenAPI document."""
    schemas = _value_schemas()
    return [
        {"name": name, "in": "query", "schema": {"type": "string", **schemas[name]}, "description": meaning}
        | ({"example": examples[name]} if name in examples else {})
        for name, meaning in OPTIONS.items()
    ]


def _value_schemas() -> dict[str, dict[str, Any]]:
    """Return what is sure to be read; a little more is, such as weights of 0 beside others."""
    name, level = r"[^,:\s]([^,:]*[^,:\s])?", r"([0-9]{1,9}|max)"
    weight = r"[+-]?([1-9][0-9]{0,8}(\.[0-9]{1,9})?|0\.[0-9]{0,8}[1-9])"
    return {
        "targets": {"pattern": f"^(prefix|{name}:{level}(,{name}:{level})*)$"},
        "preference": {"pattern": f"^{name}:{weight}(,{name}:{weight})*$"},
        "normalise": {"enum": ["score"]},
        "template": {"enum": list(KNOWN_FORMATS)},
    }


def _targets(value: str) -> TargetsOption:
    if value == "prefix":
        return "prefix"
    return {
        name: _level(level) for name, level in pairs_of("targets", value, "prefix, or head:level,head:level").items()
    }


def _level(written: str) -> Level:
    if written.lower() == "max":
        return "max"
    if LEVEL.fullmatch(written) is None:
        refuse("targets", "a level is a whole number from 1, or max")
    return int(written)


Options = Annotated[TrainerOptions, Depends(options_of)]
