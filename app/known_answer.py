"""The known answer of the published ArmoRM checkpoint, from its model card: proof that it was loaded as it was meant.

Everything is handed in; nothing here knows a tensor, a tokenizer or where the weights came from.
"""

from collections.abc import Mapping
from types import MappingProxyType

from app.canary import QUANTIZED_TOLERANCE, Encode, Forward
from app.domain import Item, Message, ModelInfo, Readout
from app.errors import InvalidWeights
from app.pack_builder import pack_of

PUBLISHED_NAME = "ArmoRM-Llama3-8B-v0.1"
TOLERANCE = 0.05
"""The card's figures were computed in bfloat16 on another machine. Quantised weights are allowed what a canary allows
them on top, of the largest of the figures."""

ITEM = Item(
    (Message("user", 'What are some synonyms for the word "beautiful"?'),),
    ("Nicely, Beautifully, Handsome, Stunning, Wonderful, Gorgeous, Pretty, Stunning, Elegant",),
)
NATIVE_REWARDS: Mapping[str, float] = MappingProxyType(
    {
        "helpsteer-helpfulness": 2.78,
        "helpsteer-correctness": 2.86,
        "helpsteer-coherence": 3.48,
        "helpsteer-complexity": 1.38,
        "helpsteer-verbosity": 1.30,
    }
)
COEFFICIENTS: Mapping[str, float] = MappingProxyType(
    {
        "code-complexity": 0.19922,
        "helpsteer-verbosity": -0.10864,
        "ultrafeedback-instruction_following": 0.07861,
    }
)


def has_known_answer(info: ModelInfo) -> bool:
    """Say whether these weights claim to be the published checkpoint."""
    return info.name.rsplit("/", 1)[-1] == PUBLISHED_NAME


def check_known_answer(info: ModelInfo, encode: Encode, forward: Forward) -> None:
    """Compare rewards and coefficients with those of the model card.

    Raises:
        InvalidWeights: one is off by more than it may be; names it, what was expected and what came.
    """
    allowed = QUANTIZED_TOLERANCE[info.quantization]
    largest_reward, largest_coefficient = (max(map(abs, each.values())) for each in (NATIVE_REWARDS, COEFFICIENTS))
    (readout,) = forward(pack_of(encode(ITEM, "never").conversations)).readouts()
    for name, expected in NATIVE_REWARDS.items():
        _compare(
            f"the native reward of {name}", expected, _native_reward(info, readout, name), allowed * largest_reward
        )
    for name, expected in COEFFICIENTS.items():
        _compare(
            f"the coefficient of {name}", expected, _coefficient(info, readout, name), allowed * largest_coefficient
        )


def _native_reward(info: ModelInfo, readout: Readout, name: str) -> float | None:
    if name not in info.objective_names:
        return None
    index = info.objective_names.index(name)
    native = info.objectives[index].native
    return None if native is None else native(float(readout.rewards[index]))


def _coefficient(info: ModelInfo, readout: Readout, name: str) -> float | None:
    if name not in info.objective_names or readout.coefficients is None:
        return None
    return float(readout.coefficients[info.objective_names.index(name)])


def _compare(what: str, expected: float, got: float | None, allowed_on_top: float) -> None:
    tolerance = TOLERANCE + allowed_on_top
    # Written so that NaN is off as well.
    if got is None or not abs(got - expected) <= tolerance:
        raise InvalidWeights(
            f"{what} is not the model card's: expected {expected}, "
            f"got {'nothing' if got is None else f'{got:.4f}'}, tolerance {tolerance:g}"
        )
