"""A mixed burst on one prompt computes it once: /score, /objectives and /moslim-classify ride one forward pass.

The engine is held by a request of its own while the burst arrives. One of the three routes writes the prompt with an
intensity prefix that is read and stripped: what is left is the prompt of the other two.
"""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

import app.main
from app.packing import Pack
from tests.api.real_weights import DEFAULT_WEIGHTS, HeldEngine, serving_with_heads
from tests.api.serving import Served, wait_until
from tests.checkpoints import write_own_folder

PROMPT = "A farmer has 17 sheep, and all but 9 run away. How many are left? Think before you answer."
OTHER_PROMPT = PROMPT.replace("17", "18")
RESPONSES = [f"{number} are left{'!' * (number % 4)}" for number in range(16)]
OCCUPYING = {"prompt": "Wait.", "response": "Yes."}
ROUTES = ("/score", "/objectives", "/moslim-classify")

Call = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Burst:
    """Answers to calls that waited together, the packs that carried them, and what waited and was counted."""

    answers: list[Any]
    packs: list[Pack]
    queued_tokens: float
    grown: dict[str, float]
    """What the metrics grew by, the occupying request left out."""

    def usage(self, kind: str) -> int:
        return sum(answer["usage"][f"{kind}_tokens"] for answer in self.answers)


@dataclass(frozen=True)
class Bench:
    """A server of real weights, and its engine."""

    served: Served
    held: HeldEngine

    def burst(self, calls: Sequence[Call]) -> Burst:
        """Make `calls` while the engine is busy with another request; let it go on once all of them wait."""
        before, first = self.counts(), len(self.held.packs)
        self.held.may_go_on.clear()
        with ThreadPoolExecutor(len(calls) + 1) as pool:
            try:
                occupying = pool.submit(self.served.post, "/score", OCCUPYING)
                wait_until(lambda: len(self.held.packs) > first)
                asked = [pool.submit(self.served.post, *call) for call in calls]
                queued_tokens = self.queued_once_tokenized(before["tokenized"] + 1 + len(calls))
            finally:
                self.held.may_go_on.set()
            responses = [one.result() for one in (occupying, *asked)]
        assert {response.status_code for response in responses} == {200}
        occupying_answer, *answers = [response.json() for response in responses]
        grown = {name: count - before[name] for name, count in self.counts().items()}
        for kind in ("prompt", "response", "computed"):
            grown[kind] -= occupying_answer["usage"][f"{kind}_tokens"]
        return Burst(answers, self.held.packs[first + 1 :], queued_tokens, grown)

    def queued_once_tokenized(self, requests: float) -> float:
        """Wait until so many requests are tokenised; return how many tokens wait."""
        wait_until(lambda: self.counts()["tokenized"] == requests)
        self.served.client.get("/livez")  # a turn of the event loop later the last of them waits as well
        return self.served.metric("armoserve_queued_tokens", priority="interactive")

    def counts(self) -> dict[str, float]:
        kinds = ("prompt", "response", "computed", "shared", "cached")
        tokens = {kind: self.served.metric("armoserve_tokens_total", kind=kind) for kind in kinds}
        return tokens | {
            "packs": self.served.metric("armoserve_pack_responses_count"),
            "pack responses": self.served.metric("armoserve_pack_responses_sum"),
            "tokenized": self.served.metric("armoserve_tokenize_seconds_count"),
        }

    def tokens(self, prompt: str) -> tuple[int, list[int]]:
        """Return how many tokens the prompt has, and each response: what is tokenised is not computed."""
        (result,) = self.served.post("/tokenize", {"prompt": prompt, "responses": RESPONSES}).json()["results"]
        (of_prompt,) = {response["prompt_tokens"] for response in result["responses"]}
        return of_prompt, [len(response["token_ids"]) - of_prompt for response in result["responses"]]

    def calls(self, route: str, prompt: str, *, one_by_one: bool) -> list[Call]:
        """Ask for all responses in one request, or for each in its own; intensities are targeted by a prefix."""
        body: dict[str, Any] = {"prompt": prompt}
        if route == "/moslim-classify":
            heads = self.served.client.get("/info").json()["heads"]
            tags = "".join(f" < {head['name']}  max >" for head in heads)
            body = {"prompt": f"{tags}\n{prompt}", "targets": "prefix"}
        if one_by_one:
            return [(route, body | {"response": response}) for response in RESPONSES]
        return [(route, body | {"responses": RESPONSES})]


@pytest.fixture(scope="module", params=["weights/default", "random weights"])
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    scratch, held = tmp_path_factory.mktemp("bench"), HeldEngine()
    folder = DEFAULT_WEIGHTS if request.param == "weights/default" else write_own_folder(scratch / "own")
    with pytest.MonkeyPatch.context() as patch:
        # The engine looks slow while it is held, and would get packs that are too small for a burst.
        patch.setattr(app.main, "PACK_SECONDS", math.inf)
        with serving_with_heads(folder, scratch, held, prefix_cache_bytes="0") as served:
            yield Bench(served, held)


def assert_adds_up(burst: Burst, computed: int, logical_prompt: int, response: int) -> None:
    """Hold every count of a burst to what it should be: in the queue, the pack, the answers and the metrics."""
    (pack,) = burst.packs
    assert pack.num_responses == 3 * len(RESPONSES)
    assert pack.num_tokens == burst.queued_tokens == burst.usage("computed") == burst.grown["computed"] == computed
    assert pack.num_logical_tokens == logical_prompt + response
    assert burst.usage("prompt") == burst.grown["prompt"] == logical_prompt
    assert burst.usage("response") == burst.grown["response"] == response
    assert burst.grown["shared"] == logical_prompt + response - computed
    assert burst.grown["cached"] == 0
    assert (burst.grown["packs"], burst.grown["pack responses"]) == (2, 1 + 3 * len(RESPONSES))


@pytest.mark.parametrize("one_by_one", [True, False], ids=["48 requests", "3 requests"])
class TestMixedBurst:
    def test_the_prompt_is_computed_once(self, bench: Bench, *, one_by_one: bool) -> None:
        of_prompt, of_responses = bench.tokens(PROMPT)
        calls = [call for route in ROUTES for call in bench.calls(route, PROMPT, one_by_one=one_by_one)]
        burst = bench.burst(calls)
        response = 3 * sum(of_responses)
        assert_adds_up(burst, of_prompt + response, 3 * 16 * of_prompt, response)
        assert len(burst.packs[0].gating_indices_P) == 1

    @pytest.mark.parametrize("odd_one", range(len(ROUTES)))
    def test_a_prompt_that_differs_in_one_character_is_computed_too(
        self, bench: Bench, odd_one: int, *, one_by_one: bool
    ) -> None:
        of_prompt, of_responses = bench.tokens(PROMPT)
        of_other, of_other_responses = bench.tokens(OTHER_PROMPT)
        assert of_other_responses == of_responses
        groups = [bench.calls(route, PROMPT, one_by_one=one_by_one) for route in ROUTES]
        groups[odd_one][-1] = bench.calls(ROUTES[odd_one], OTHER_PROMPT, one_by_one=one_by_one)[-1]
        burst = bench.burst([call for group in groups for call in group])
        odd, response = (1 if one_by_one else 16), 3 * sum(of_responses)
        logical_prompt = (3 * 16 - odd) * of_prompt + odd * of_other
        assert_adds_up(burst, of_prompt + of_other + response, logical_prompt, response)

    def test_a_prefix_that_is_not_read_is_a_prompt_of_its_own(self, bench: Bench, *, one_by_one: bool) -> None:
        calls = [call for route in ROUTES for call in bench.calls(route, PROMPT, one_by_one=one_by_one)]
        read = bench.burst(calls)
        unread = bench.burst([(route, body | {"targets": {}} if "targets" in body else body) for route, body in calls])
        assert len(unread.packs[0].gating_indices_P) == 2
        assert unread.usage("computed") > read.usage("computed") + bench.tokens(PROMPT)[0]

    def test_each_route_answers_as_if_it_were_alone(self, bench: Bench, *, one_by_one: bool) -> None:
        calls = [call for route in ROUTES for call in bench.calls(route, PROMPT, one_by_one=one_by_one)]
        alone = [bench.served.post(*call).json()["results"] for call in calls]
        for call, together, expected in zip(calls, bench.burst(calls).answers, alone, strict=True):
            assert numbers_in(together["results"]) == pytest.approx(numbers_in(expected), rel=1e-4, abs=1e-4), call[0]
        assert len({str(result) for result in alone}) == len(calls)


def numbers_in(value: Any) -> list[float]:
    """Return every number of an answer, in order."""
    members = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    if members is None:
        return [value] if isinstance(value, int | float) else []
    return [number for member in members for number in numbers_in(member)]
