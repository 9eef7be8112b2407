"""Known answers: a few conversations with the readouts they must give, checked before the server reports ready.

A head that was loaded wrong, another template or a broken kernel still gives numbers; only a known answer tells. The
functions to check are handed in: nothing here knows a tensor, a tokenizer or a queue.

A tolerance is relative to the size of what is compared: `|got - expected| <= tolerance * max |expected|`, the maximum
taken over all rewards of the canary together, and likewise over its scores, over its gating coefficients and over the
class probabilities of each intensity head.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeAlias

from app.domain import FloatArray, Item, Message, TokenizedItem, Truncation
from app.errors import InvalidConversation, InvalidWeights
from app.pack_builder import pack_of
from app.packing import Pack, PackOutput

Encode: TypeAlias = Callable[[Item, Truncation], TokenizedItem]
Forward: TypeAlias = Callable[[Pack], PackOutput]

FILE_NAME = "canary.json"
OF_HEAD: Final = "intensity of "

PACKING_TOLERANCE: Mapping[str, float] = {"float32": 1e-3, "float16": 0.1, "bfloat16": 0.5}
"""How far a readout may depend on its pack. With weights/default a response that sees its neighbour moves a reward by
0.06 to 0.11 of the largest; rounding moves it by 2e-5 in float32, and leaving float32 by 0.04 (float16) or 0.3
(bfloat16). So float32 tells the finest mistake, half precision only a gross one.
"""
QUANTIZED_TOLERANCE: Mapping[str, float] = {"none": 0.0, "int8": 0.22, "nf4": 0.9, "fp8": 0.9}
"""How much further than its type allows a readout may be from its known answer. With weights/default int8 moves one by
0.07 of the largest, nf4 by 0.44: this is three times and twice as much; fp8, never measured, is given as much as nf4.
None may lean on their company more than whole weights: no scale is taken over several tokens.
"""

PROBE_ITEMS = (
    Item((Message("user", "Name a colour."),), ("Blue.", "One colour among many is green.", "I would rather not say.")),
    Item(
        (Message("user", "What is 2 + 3?"), Message("assistant", "5"), Message("user", "And twice that?")),
        ("10", "Twice five is eleven, I think."),
    ),
)
"""For weights without known answers: enough to see whether a readout depends on its company."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What one response must read; None is not known and not checked."""

    rewards: tuple[float | None, ...]
    score: float | None
    gating: tuple[float | None, ...] | None
    intensities: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)
    """Class probabilities (C,) by intensity head."""


@dataclass(frozen=True, slots=True)
class CanaryItem:
    """One item and what each of its responses must read, in order."""

    item: Item
    expected: tuple[Expected, ...]

    def __post_init__(self) -> None:
        if len(self.expected) != len(self.item.responses):
            raise ValueError("every response needs an expected readout")


@dataclass(frozen=True, slots=True)
class Canary:
    """Known answers, and the relative tolerance that each dtype is allowed."""

    tolerance: Mapping[str, float]
    items: tuple[CanaryItem, ...]

    def without_intensities(self) -> "Canary":
        """Return the known answers of the weights without their intensity heads, for heads from elsewhere."""
        items = [
            replace(one, expected=tuple(replace(expected, intensities={}) for expected in one.expected))
            for one in self.items
        ]
        return replace(self, items=tuple(items))


def read_canary(folder: Path) -> Canary | None:
    """Read `canary.json` of a weights folder; None where there is none.

    Raises:
        InvalidWeights: the file is not understood.
    """
    path = folder / FILE_NAME
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text("utf-8"))
        tolerance = {str(dtype): float(value) for dtype, value in content["tolerance"].items()}
        return Canary(tolerance, tuple(_parse_item(entry) for entry in content["items"]))
    except (ValueError, KeyError, TypeError, AttributeError, InvalidConversation) as error:
        raise InvalidWeights(f"{FILE_NAME} is not understood: {error!r}") from error


def write_canary(folder: Path, canary: Canary) -> None:
    """Write `canary.json` into a weights folder."""
    content = {"tolerance": dict(canary.tolerance), "items": [_format_item(one) for one in canary.items]}
    text = json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False)
    (folder / FILE_NAME).write_text(text + "\n", "utf-8")


def make_canary(items: Sequence[Item], encode: Encode, forward: Forward, tolerance: Mapping[str, float]) -> Canary:
    """Record what `forward` says about `items` now, each item in a pack of its own."""
    answers = [_recorded(forward(pack_of(encode(item, "never").conversations))) for item in items]
    return Canary(
        dict(tolerance), tuple(CanaryItem(item, tuple(one)) for item, one in zip(items, answers, strict=True))
    )


def check_canary(
    canary: Canary,
    encode: Encode,
    forward: Forward,
    dtype: str,
    objectives: Sequence[str] = (),
    quantization: str = "none",
) -> None:
    """Compare what `forward` says with the known answers; `objectives` name the rewards in the error.

    Raises:
        InvalidWeights: a value is off; names it, what was expected, what came and the tolerance.
    """
    tolerance = _tolerance_for(dtype, canary.tolerance) + QUANTIZED_TOLERANCE[quantization]
    encoded = [encode(one.item, "never").conversations for one in canary.items]
    got = [one for conversations in encoded for one in _recorded(forward(pack_of(conversations)))]
    expected = [one for item in canary.items for one in item.expected]
    _compare(expected, got, tolerance, f"the known answer of {FILE_NAME}", objectives)


def check_packed_equals_alone(items: Sequence[Item], encode: Encode, forward: Forward, dtype: str) -> None:
    """Compare all of `items` in one pack with each conversation in a pack of its own.

    Raises:
        InvalidWeights: a readout depends on its company.
    """
    conversations = [one for item in items for one in encode(item, "never").conversations]
    packed = _recorded(forward(pack_of(conversations)))
    alone = [one for conversation in conversations for one in _recorded(forward(pack_of([conversation])))]
    tolerance = _tolerance_for(dtype, PACKING_TOLERANCE)
    _compare(alone, packed, tolerance, "the same conversation in a pack of its own")


def _compare(
    expected: Sequence[Expected], got: Sequence[Expected], tolerance: float, reference: str, names: Sequence[str] = ()
) -> None:
    if len(got) != len(expected):
        raise InvalidWeights(f"the forward pass gave {len(got)} readouts for {len(expected)} responses")
    scales = _scales(expected)
    for index, (one, other) in enumerate(zip(expected, got, strict=True)):
        found = {(kind, column): value for kind, column, value in _values(other)}
        for kind, column, want in _values(one):
            have = found.get((kind, column))
            # Written so that NaN is off as well.
            if want is not None and not (have is not None and abs(have - want) <= tolerance * scales[kind]):
                raise InvalidWeights(
                    f"{_label(kind, column, names)} of response {index} differs from {reference}: "
                    f"expected {want:.6g}, got {'nothing' if have is None else f'{have:.6g}'}, "
                    f"tolerance {tolerance * scales[kind]:.2g} ({tolerance:g} of the largest)"
                )


def _values(one: Expected) -> Iterator[tuple[str, int, float | None]]:
    yield "score", 0, one.score
    yield from (("reward", column, value) for column, value in enumerate(one.rewards))
    yield from (("gating coefficient", column, value) for column, value in enumerate(one.gating or ()))
    for head, values in one.intensities.items():
        yield from ((f"{OF_HEAD}{head}", column, value) for column, value in enumerate(values))


def _scales(expected: Sequence[Expected]) -> dict[str, float]:
    scales: dict[str, float] = {}
    for one in expected:
        for kind, _, value in _values(one):
            scales[kind] = max(scales.get(kind, 0.0), abs(value or 0.0))
    return scales


def _label(kind: str, column: int, names: Sequence[str]) -> str:
    if kind == "score":
        return "the score"
    if kind.startswith(OF_HEAD):
        return f"the probability of level {column + 1} of {kind.removeprefix(OF_HEAD)}"
    return f"the {kind} of {names[column] if column < len(names) else f'objective {column}'}"


def _tolerance_for(dtype: str, tolerance: Mapping[str, float]) -> float:
    if dtype not in tolerance:
        raise InvalidWeights(f"there is no tolerance for {dtype}; there is one for {', '.join(sorted(tolerance))}")
    return tolerance[dtype]


def _recorded(output: PackOutput) -> list[Expected]:
    return [
        Expected(
            _floats(one.rewards),
            one.score,
            None if one.gating is None else _floats(one.gating),
            {head: _floats(values_C) for head, values_C in one.intensities.items()},
        )
        for one in output.readouts()
    ]


def _floats(values: FloatArray) -> tuple[float, ...]:
    # Nine digits give the same float32 back, without the tail that its double has.
    return tuple(float(f"{value:.9g}") for value in values.tolist())


def _parse_item(entry: Mapping[str, Any]) -> CanaryItem:
    prompt = tuple(Message(message["role"], message["content"]) for message in entry["prompt"])
    item = Item(prompt, tuple(map(str, entry["responses"])))
    return CanaryItem(item, tuple(_parse_expected(one) for one in entry["expected"]))


def _parse_expected(entry: Mapping[str, Any]) -> Expected:
    gating = entry.get("gating")
    score = _number(entry.get("score"))
    intensities = {head: tuple(map(_number, values)) for head, values in entry.get("intensities", {}).items()}
    rewards = tuple(map(_number, entry["rewards"]))
    return Expected(rewards, score, None if gating is None else tuple(map(_number, gating)), intensities)


def _number(value: float | None) -> float | None:
    return None if value is None else float(value)


def _format_item(one: CanaryItem) -> dict[str, Any]:
    return {
        "prompt": [{"role": message.role, "content": message.content} for message in one.item.prompt],
        "responses": list(one.item.responses),
        "expected": [_format_expected(expected) for expected in one.expected],
    }


def _format_expected(one: Expected) -> dict[str, Any]:
    document = {"rewards": one.rewards, "score": one.score, "gating": one.gating}
    return document | ({"intensities": dict(one.intensities)} if one.intensities else {})
