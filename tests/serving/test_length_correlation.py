"""Spearman within prompts by hand and by scipy, and the prompts that it is the mean of."""

import asyncio
import warnings

import numpy as np
import pytest
from scipy.stats import spearmanr

from app.serving.length_correlation import LengthCorrelation, spearman_of_each
from tests.serving.harness import item, run, serving, until


def arrays(*values: list[float]) -> tuple[np.ndarray, ...]:
    return tuple(np.array(one, dtype=np.float64) for one in values)


def test_ties_share_their_mean_rank_by_hand() -> None:
    scores, tokens = arrays([1, 2, 2, 4], [10, 20, 30, 40])
    # ranks -1.5, 0, 0, 1.5 and -1.5, -0.5, 0.5, 1.5: 4.5 / sqrt(4.5 x 5)
    assert spearman_of_each(scores, tokens, np.zeros(4, dtype=np.int64)) == pytest.approx([0.9486833])


def test_prompts_are_not_mixed_and_those_without_a_correlation_do_not_count() -> None:
    scores, tokens = arrays(
        [1, 5, 2, 6, 3, 4, 9, 9, 9, 1, 2, 7], [1, 30, 2, 20, 3, 10, 1, 2, 3, 1, 9, 5]
    )  # prompt 0 rises, 1 falls not quite, 2 has equal scores, 3 two responses, 5 one
    prompts = np.array([0, 1, 0, 1, 0, 1, 2, 2, 2, 3, 3, 5])
    assert spearman_of_each(scores, tokens, prompts) == pytest.approx([1.0, 0.5])


def test_it_is_scipys() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        size = int(random.integers(3, 60))
        prompts = random.integers(0, 6, size)
        scores, tokens = (random.integers(0, 5, size).astype(np.float64) for _ in range(2))
        expected = []
        for prompt in range(6):
            mine = prompts == prompt
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of constant input, which has no correlation
                rho = spearmanr(scores[mine], tokens[mine]).statistic if mine.sum() >= 3 else np.nan
            expected += [] if np.isnan(rho) else [rho]
        assert spearman_of_each(scores, tokens, prompts) == pytest.approx(expected)


def test_the_mean_is_of_the_last_prompts() -> None:
    correlation = LengthCorrelation(window_prompts=2)
    prompt = np.zeros(3, dtype=np.int64)
    assert correlation.read() == {}
    correlation.observe([1, 2, 3], [1, 2, 3], prompt)
    correlation.observe([3, 2, 1], [1, 2, 3], prompt)
    assert correlation.read() == {"": 0.0}
    correlation.observe([3, 2, 1], [1, 2, 3], prompt)
    assert correlation.read() == {"": -1.0}
    assert LengthCorrelation().read() == {}


def test_a_score_that_is_no_number_is_passed_over() -> None:
    correlation = LengthCorrelation()
    correlation.observe([1, 2, np.nan, 3], [1, 2, 0, 3], np.zeros(4, dtype=np.int64))
    assert correlation.read() == {"": 1.0}
    untouched = LengthCorrelation()
    untouched.observe([1, np.nan, 3], [1, 2, 3], np.zeros(3, dtype=np.int64))
    assert untouched.read() == {}


def test_requests_of_one_response_each_count_as_their_prompts() -> None:
    async def test() -> None:
        async with serving() as rig:
            rig.engine.hold()
            first = asyncio.create_task(rig.service.score([item("busy", "x")]))
            await rig.engine.has_begun()
            responses = ("a", "bb", "ccc")
            group = [asyncio.create_task(rig.service.score([item("same prompt", r)])) for r in responses]
            await until(lambda: rig.queued_tokens() == len("same prompt") + 6)
            assert rig.sample("armoserve_score_length_correlation") is None
            rig.engine.release()
            await asyncio.gather(first, *group)
            assert rig.sample("armoserve_score_length_correlation") == 1.0

    run(test)


def test_an_item_whose_longer_response_is_worse() -> None:
    async def test() -> None:
        async with serving() as rig:
            await rig.service.score([item("one", "zzzzzzzz", "a")])
            assert rig.sample("armoserve_score_length_correlation") is None, "two responses say nothing"
            await rig.service.score([item("one", "z", "A!", "   ")])
            assert rig.sample("armoserve_score_length_correlation") == -1.0

    run(test)
