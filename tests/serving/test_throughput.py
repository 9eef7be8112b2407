"""How long the engine is expected to take, from how long it took."""

import random

import pytest

from app.serving.throughput import Throughput

FULL_PACK_TOKENS = 1000


@pytest.fixture
def throughput() -> Throughput:
    return Throughput()


def test_nothing_is_known_before_the_first_pack(throughput: Throughput) -> None:
    assert throughput.seconds_for(10, FULL_PACK_TOKENS) is None


def test_nothing_takes_no_time(throughput: Throughput) -> None:
    throughput.record(10, 1.0)
    assert throughput.seconds_for(0, FULL_PACK_TOKENS) == 0.0


def test_packs_of_one_size_are_charged_by_the_pack(throughput: Throughput) -> None:
    for _ in range(5):
        throughput.record(10, 0.5)
    assert throughput.seconds_for(10, FULL_PACK_TOKENS) == pytest.approx(0.5)
    assert throughput.seconds_for(FULL_PACK_TOKENS, FULL_PACK_TOKENS) == pytest.approx(0.5)
    assert throughput.seconds_for(2 * FULL_PACK_TOKENS + 1, FULL_PACK_TOKENS) == pytest.approx(1.5)


def test_noise_between_small_packs_says_nothing_of_a_token(throughput: Throughput) -> None:
    generator = random.Random(0)
    for _ in range(50):
        throughput.record(generator.randint(10, 14), generator.uniform(0.4, 0.6))
    assert throughput.seconds_for(10 * FULL_PACK_TOKENS, FULL_PACK_TOKENS) == pytest.approx(5.0, rel=0.3)


def test_packs_of_different_sizes_tell_the_cost_of_a_pack_from_that_of_a_token(throughput: Throughput) -> None:
    for tokens in (10, 1000, 200, 900) * 10:
        throughput.record(tokens, 0.1 + 0.002 * tokens)
    assert throughput.seconds_for(500, FULL_PACK_TOKENS) == pytest.approx(0.1 + 1.0, rel=0.03)
    assert throughput.seconds_for(10_000, FULL_PACK_TOKENS) == pytest.approx(10 * 0.1 + 20.0, rel=0.03)


def test_neither_cost_is_ever_negative(throughput: Throughput) -> None:
    for tokens, seconds in ((1000, 0.1), (10, 1.0)) * 5:
        throughput.record(tokens, seconds)
    assert 0 < throughput.seconds_for(1, FULL_PACK_TOKENS) <= throughput.seconds_for(5000, FULL_PACK_TOKENS)
    steep = Throughput()
    for tokens, seconds in ((1000, 9.0), (500, 1.0)) * 5:
        steep.record(tokens, seconds)
    assert 0 <= steep.seconds_for(1, FULL_PACK_TOKENS) <= steep.seconds_for(2, FULL_PACK_TOKENS)


def test_the_last_packs_count_most(throughput: Throughput) -> None:
    throughput.record(1000, 100.0)
    for _ in range(100):
        throughput.record(1000, 1.0)
    assert throughput.seconds_for(1000, FULL_PACK_TOKENS) == pytest.approx(1.0, rel=1e-2)
