"""Prompts seen before, over HTTP: what a request is told that it cost, what the metrics say, and what may be set."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.real_weights import serving_with_heads
from tests.api.serving import Served
from tests.checkpoints import write_own_folder

PROMPT = "Explain in a few words, and for a child, how a rainbow comes about. " * 3
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_own_folder(tmp_path_factory.mktemp("weights") / "own")


@pytest.fixture
def served(folder: Path, tmp_path: Path) -> Iterator[Served]:
    with serving_with_heads(folder, tmp_path) as running:
        yield running


@pytest.fixture
def forgetful(folder: Path, tmp_path: Path) -> Iterator[Served]:
    with serving_with_heads(folder, tmp_path, prefix_cache_bytes="0") as running:
        yield running


def score(served: Served, *responses: str, prompt: str = PROMPT) -> dict[str, object]:
    answer = served.post("/score", {"prompt": prompt, "responses": list(responses)})
    assert answer.status_code == 200
    return answer.json()


def scores(answer: dict[str, object]) -> list[float]:
    (result,) = answer["results"]
    values: list[float] = result["scores"]
    return values


def test_a_prompt_seen_again_costs_its_responses(served: Served, forgetful: Served) -> None:
    first = score(served, "Light bends.", "No.")
    again = score(served, "Sun and rain.", "Light bends.")
    usage = again["usage"]
    assert first["usage"]["computed_tokens"] > usage["computed_tokens"] == usage["response_tokens"]
    assert scores(again)[1] == pytest.approx(scores(first)[0], abs=TOLERANCE)
    uncached = [score(forgetful, "Sun and rain.", "Light bends.") for _ in range(2)]
    assert scores(uncached[1]) == pytest.approx(scores(again), abs=TOLERANCE)
    assert abs(scores(again)[0] - scores(again)[1]) > 100 * TOLERANCE, "else nothing was told apart"
    assert uncached[0]["usage"]["computed_tokens"] == uncached[1]["usage"]["computed_tokens"]


def test_what_the_metrics_say(served: Served) -> None:
    first, again = score(served, "Light bends.", "No."), score(served, "Sun and rain.")
    tokens = {kind: served.metric("armoserve_tokens_total", kind=kind) for kind in
              ("prompt", "response", "computed", "shared", "cached")}  # fmt: skip
    prompt_tokens = again["usage"]["prompt_tokens"]
    assert tokens["cached"] == tokens["shared"] == prompt_tokens
    assert tokens["prompt"] + tokens["response"] == tokens["computed"] + tokens["shared"] + tokens["cached"]
    assert tokens["computed"] == first["usage"]["computed_tokens"] + again["usage"]["computed_tokens"]
    assert served.metric("armoserve_prefix_cache_hits_total") == 1
    assert served.metric("armoserve_prefix_cache_tokens") == prompt_tokens
    assert served.metric("armoserve_prefix_cache_evictions_total") == 0


def test_a_small_budget_evicts(folder: Path, tmp_path: Path) -> None:
    with serving_with_heads(folder, tmp_path, prefix_cache_bytes="400000") as served:
        for number in range(8):
            score(served, "Yes.", prompt=f"{number} {PROMPT}")
        assert served.metric("armoserve_prefix_cache_evictions_total") > 0
        assert served.metric("armoserve_prefix_cache_tokens") > 0


def test_the_same_bits_in_any_company_where_that_is_asked_for(folder: Path, tmp_path: Path) -> None:
    settings = {"batch_invariant": "true", "max_pack_tokens": "1024"}
    with serving_with_heads(folder, tmp_path, **settings) as served:
        alone = [scores(score(served, text))[0] for text in ("Light bends.", "Sun and rain.", "No.")]
        assert scores(score(served, "Light bends.", "Sun and rain.", "No.")) == alone
        assert served.metric("armoserve_prefix_cache_hits_total") == 3
