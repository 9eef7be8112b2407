"""Known answers: recorded, read back, and noticed when anything is off."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from app.canary import (
    FILE_NAME,
    PROBE_ITEMS,
    Canary,
    check_canary,
    check_packed_equals_alone,
    make_canary,
    read_canary,
    write_canary,
)
from app.domain import Item, Message, TokenizedConversation, TokenizedItem, Truncation
from app.errors import InvalidWeights
from app.packing import Pack, PackOutput

TOLERANCE = {"float32": 1e-4, "bfloat16": 1e-2}
NAMES = ("helpful", "harmless")
ITEMS = (*PROBE_ITEMS, Item((Message("system", "Être bref."), Message("user", "où?")), ("là", "…")))


def encode(item: Item, truncation: Truncation) -> TokenizedItem:
    assert truncation == "never"
    prefix = tuple("|".join(message.content for message in item.prompt).encode())
    return TokenizedItem(
        tuple(TokenizedConversation(prefix, tuple(one.encode()), len(prefix) - 1) for one in item.responses)
    )


def forward(pack: Pack) -> PackOutput:
    """Read rewards off the tokens that a response sees: the first is its mean, the second minus its prompt's."""
    segments = {segment.stop - 1: segment for segment in pack.segments}
    responses = [segments[last] for last in pack.reward_indices_R.tolist()]
    own_R = np.array([pack.token_ids_T[one.start : one.stop].mean() for one in responses])
    prompt_R = np.array([pack.token_ids_T[one.prefix_start : one.prefix_stop].mean() for one in responses])
    rewards_RK = np.stack([own_R, -prompt_R], axis=-1).astype(np.float32) / 100
    gating_PK = np.tile(np.array([[0.3, 0.7]], dtype=np.float32), (len(pack.gating_indices_P), 1))
    return PackOutput(rewards_RK, pack.prefix_of_response_R, gating_PK, gating_PK, rewards_RK @ gating_PK[0])


def changed(change: Callable[[PackOutput], dict[str, object]]) -> Callable[[Pack], PackOutput]:
    def other_forward(pack: Pack) -> PackOutput:
        output = forward(pack)
        return dataclasses.replace(output, **change(output))

    return other_forward


def shifted(output: PackOutput, *by: float) -> dict[str, object]:
    return {"rewards_RK": output.rewards_RK + np.array(by, dtype=np.float32)}


@pytest.fixture
def canary() -> Canary:
    return make_canary(ITEMS, encode, forward, TOLERANCE)


def test_what_was_written_is_read_back(canary: Canary, tmp_path: Path) -> None:
    assert read_canary(tmp_path) is None
    write_canary(tmp_path, canary)
    assert read_canary(tmp_path) == canary
    content = json.loads((tmp_path / FILE_NAME).read_text("utf-8"))
    assert content["items"][2]["prompt"][0] == {"role": "system", "content": "Être bref."}
    assert set(content["items"][0]["expected"][0]) == {"rewards", "score", "gating"}


def test_the_right_answers_pass_also_with_a_little_rounding(canary: Canary) -> None:
    check_canary(canary, encode, forward, "float32")
    check_canary(canary, encode, changed(lambda output: {"rewards_RK": output.rewards_RK + 5e-5}), "float32")
    check_canary(canary, encode, changed(lambda output: {"rewards_RK": output.rewards_RK + 5e-3}), "bfloat16")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda output: {"rewards_RK": output.rewards_RK[:, ::-1]}, "the reward of helpful of response 0"),
        (lambda output: shifted(output, 0, 1e-2), "the reward of harmless of response 0"),
        (lambda output: {"rewards_RK": output.rewards_RK * np.nan}, "the reward of helpful"),
        (lambda output: {"rewards_RK": output.rewards_RK[:, :1]}, "the reward of harmless .*got nothing"),
        (lambda output: {"scores_R": output.scores_R + 1e-2}, "the score of response 0"),
        (lambda output: {"scores_R": None}, "the score .*got nothing"),
        (lambda output: {"gating_PK": output.gating_PK[:, ::-1]}, "the gating coefficient of helpful"),
        (lambda output: {"gating_PK": None}, "the gating coefficient of helpful .*got nothing"),
    ],
    ids=["swapped", "off", "nan", "missing", "score", "no-score", "gating", "no-gating"],
)
def test_a_wrong_answer_is_named(canary: Canary, change: Callable[[PackOutput], dict[str, object]], named: str) -> None:
    with pytest.raises(InvalidWeights, match=named):
        check_canary(canary, encode, changed(change), "float32", NAMES)


@pytest.mark.parametrize(("quantization", "allowed"), [("int8", 0.22), ("nf4", 0.9)])
def test_quantised_weights_are_checked_too_with_more_room(canary: Canary, quantization: str, allowed: float) -> None:
    largest = max(abs(value) for item in canary.items for one in item.expected for value in one.rewards)
    near = changed(lambda output: shifted(output, 0.99 * allowed * largest, 0))
    check_canary(canary, encode, near, "float32", NAMES, quantization)
    far = changed(lambda output: shifted(output, 1.01 * allowed * largest, 0))
    with pytest.raises(InvalidWeights, match="the reward of helpful of response 0"):
        check_canary(canary, encode, far, "float32", NAMES, quantization)


def test_the_error_says_what_was_expected_what_came_and_what_is_allowed() -> None:
    canary = make_canary([Item((Message("user", "n"),), ("b",))], encode, forward, TOLERANCE)
    off_by_one = changed(lambda output: shifted(output, 1, 0))
    with pytest.raises(InvalidWeights, match=r"expected 0\.98, got 1\.98, tolerance 0\.00011 \(0\.0001 of the largest"):
        check_canary(canary, encode, off_by_one, "float32")


def test_a_small_score_is_held_to_its_own_size_and_not_to_that_of_large_rewards() -> None:
    small = changed(lambda output: {"scores_R": output.scores_R * 1e-3})
    canary = make_canary(ITEMS, encode, small, TOLERANCE)
    off = changed(lambda output: {"scores_R": output.scores_R * 1e-3 + 1e-6})
    with pytest.raises(InvalidWeights, match="the score"):
        check_canary(canary, encode, off, "float32")


def test_what_is_not_known_is_not_checked(canary: Canary, tmp_path: Path) -> None:
    write_canary(tmp_path, canary)
    content = json.loads((tmp_path / FILE_NAME).read_text("utf-8"))
    for item in content["items"]:
        for expected in item["expected"]:
            expected.update(rewards=[expected["rewards"][0], None], score=None, gating=None)
    (tmp_path / FILE_NAME).write_text(json.dumps(content))
    partial = read_canary(tmp_path)
    assert partial is not None
    check_canary(partial, encode, changed(lambda output: shifted(output, 0, 9)), "float32")
    with pytest.raises(InvalidWeights):
        check_canary(partial, encode, changed(lambda output: shifted(output, 9, 0)), "float32")


def test_a_dtype_without_a_tolerance_is_refused(canary: Canary) -> None:
    with pytest.raises(InvalidWeights, match="no tolerance for int8; there is one for bfloat16, float32"):
        check_canary(canary, encode, forward, "int8")


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "[]",
        "{}",
        '{"tolerance": {"float32": "much"}, "items": []}',
        '{"tolerance": {}, "items": [{"prompt": "text", "responses": ["r"], "expected": []}]}',
        '{"tolerance":{}, "items": [{"prompt": [{"role": "user", "content": ""}], "responses": [""], "expected": []}]}',
    ],
)
def test_a_file_that_is_not_understood_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE_NAME).write_text(text)
    with pytest.raises(InvalidWeights, match=r"canary\.json is not understood"):
        read_canary(tmp_path)


def test_a_model_whose_readouts_depend_on_nothing_but_the_conversation_passes() -> None:
    check_packed_equals_alone(ITEMS, encode, forward, "float32")


def test_a_readout_that_depends_on_its_company_is_noticed() -> None:
    leaking = changed(lambda output: {"rewards_RK": output.rewards_RK + len(output.rewards_RK)})
    with pytest.raises(InvalidWeights, match="the same conversation in a pack of its own"):
        check_packed_equals_alone(ITEMS, encode, leaking, "float32")


def test_answers_for_another_number_of_responses_are_noticed(canary: Canary) -> None:
    short = changed(
        lambda output: {"rewards_RK": output.rewards_RK[:1], "prefix_of_response_R": output.prefix_of_response_R[:1]}
    )
    with pytest.raises(InvalidWeights, match="3 readouts for 7 responses"):
        check_canary(canary, encode, short, "float32")
