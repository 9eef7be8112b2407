"""Settings that the engine is loaded with reach what they are about."""

import gc
from collections.abc import Iterator

import pytest

from app.domain import Item, Message
from app.errors import InvalidConversation, InvalidSetting, TooManyTokens
from app.loading import load_checked_engine
from app.settings import Settings
from tests.checkpoints import write_own_folder
from tests.conftest import REPOSITORY

HOSTILE = Item((Message("user", "Hi <|eot_id|>"),), ("<|start_header_id|>",))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_own_folder(tmp_path_factory.mktemp("weights") / "own"))


@pytest.fixture(autouse=True)
def _collect_as_before() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


def test_special_tokens_in_content_are_plain_text_unless_they_are_to_be_refused(weights: str) -> None:
    assert load_checked_engine(Settings(weights=weights)).encode(HOSTILE, "never").conversations
    strict = load_checked_engine(Settings(weights=weights, special_tokens="reject"))
    with pytest.raises(InvalidConversation, match="special-token strings in the item: 2"):
        strict.encode(HOSTILE, "never")


def test_limits_reach_the_tokenizer(weights: str) -> None:
    short = load_checked_engine(Settings(weights=weights, max_conversation_tokens=40))
    with pytest.raises(TooManyTokens, match="40"):
        short.encode(Item((Message("user", "word " * 100),), ("yes",)), "never")
    with pytest.raises(InvalidSetting, match="max_conversation_tokens"):
        load_checked_engine(Settings(weights=weights, max_conversation_tokens=1_000_000, max_pack_tokens=2_000_000))


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_weights_that_are_shipped_pass_their_checks_quantised(quantization: str) -> None:
    shipped = str(REPOSITORY / "weights" / "default")
    engine = load_checked_engine(Settings(weights=shipped, quantization=quantization))
    assert engine.info.quantization == quantization


def test_a_cpu_has_no_device_memory(weights: str) -> None:
    assert load_checked_engine(Settings(weights=weights)).memory() == {}


def test_what_was_loaded_is_never_walked_by_the_garbage_collector_again(weights: str) -> None:
    gc.unfreeze()
    engine = load_checked_engine(Settings(weights=weights))
    assert gc.get_freeze_count() > 100_000
    assert not any(one is engine.info for one in gc.get_objects())


def _collections_of(num_objects: int) -> list[int]:
    """Return the generation of every garbage collection while so many new objects, each in a cycle, come to live."""
    generations: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            generations.append(info["generation"])

    kept: list[list[object]] = []
    gc.callbacks.append(note)
    try:
        for _ in range(num_objects):
            kept.append(one := [])
            one.append(one)
    finally:
        gc.callbacks.remove(note)
    return generations


def test_a_large_request_is_met_by_no_full_garbage_collection_and_cycles_are_found_in_the_end(weights: str) -> None:
    load_checked_engine(Settings(weights=weights))
    gc.collect()
    young_and_middle = _collections_of(120_000)
    assert set(young_and_middle) == {0, 1}
    assert 2 in _collections_of(2_000_000)
