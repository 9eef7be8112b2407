"""Real clients' loops against the real application: their rewards, their retries, and what a failure is to them."""

import base64
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import httpx
import numpy as np
import pytest
import requests

from app.engine import Engine
from app.settings import Settings
from tests.api.fake_engine import GATED, FakeEngine
from tests.api.serving import Served, serving, wait_until
from tests.api.test_get_reward import PROMPT, QUERY, RESPONSES, TURNS
from tests.api.test_trainer_requests import hold
from tests.api.trainer_wires import messages_of
from tests.protocols import clients
from tests.protocols.clients import Pause, never

TEXT, RESPONSE = QUERY[0], RESPONSES[0]
MESSAGES = messages_of(TURNS, RESPONSE)
Client = Callable[[str, Pause], float]


def of_openrlhf(server: str, pause: Pause) -> float:
    answer = clients.openrlhf_agent(f"{server}/get_reward", TEXT, PROMPT, pause)
    assert answer is not None
    return float(answer["rewards"][0])


CLIENTS: dict[str, Client] = {
    "openrlhf": of_openrlhf,
    "slime": lambda server, pause: float(
        clients.slime_remote_rm(f"{server}/get_reward", {"prompt": PROMPT, "response": RESPONSE}, pause=pause)
    ),
    "verl, vLLM": lambda server, pause: clients.verl_disrm(server, "vllm", TEXT, pause=pause),
    "verl, SGLang": lambda server, pause: clients.verl_disrm(server, "sglang", TEXT, pause=pause),
    "nemo curator, camel": lambda server, pause: clients.nemo_curator_rewards(f"{server}/v1", MESSAGES, pause=pause)[
        "reward"
    ],
    "after the colon": lambda server, pause: clients.split_colon_reward(f"{server}/v1", MESSAGES, pause=pause),
    "cohere": lambda server, pause: clients.cohere_rerank(server, "Say something", [RESPONSE], pause=pause)[0][1],
    "jina": lambda server, pause: clients.jina_rerank(server, "Say something", [RESPONSE], pause=pause)[0][1],
    "vllm rerank": lambda server, pause: clients.vllm_rerank(server, "Say something", [RESPONSE], pause=pause)[0][1],
}
PAUSES = {"openrlhf": [1.0, 1.0], "verl, vLLM": [1, 2], "verl, SGLang": [1, 2]}
"""What these wait before their second and third attempts; slime's are random in part, the SDK's asked for."""
each_client = pytest.mark.parametrize("name", list(CLIENTS))


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving() as running:
        yield running


def url_of(served: Served, path: str = "") -> str:
    return f"http://127.0.0.1:{served.port}{path}"


def score(served: Served) -> float:
    (result,) = served.post("/score", {"prompt": "Say something", "response": RESPONSE}).json()["results"]
    return float(result["scores"][0])


class TestRewards:
    @each_client
    def test_each_client_reads_the_score(self, served: Served, name: str) -> None:
        assert CLIENTS[name](url_of(served), never) == pytest.approx(score(served), abs=1e-9)

    def test_llamafactory_reads_a_score_per_text(self, served: Served) -> None:
        got = clients.llamafactory_rewards(url_of(served, "/v1/score/evaluation"), QUERY)
        assert got == pytest.approx([score(served), got[1]], abs=1e-9)
        assert len(got) == len(QUERY)

    def test_the_sdks_embeddings_decode_to_the_score(self, served: Served) -> None:
        (coded, _) = clients.openai_embeddings(url_of(served, "/v1"), QUERY)
        assert np.frombuffer(base64.b64decode(coded), dtype="float32").tolist() == [pytest.approx(score(served))]

    def test_nemo_curator_reads_every_objective(self, served: Served) -> None:
        values = clients.nemo_curator_rewards(url_of(served, "/v1"), MESSAGES)
        assert list(values) == ["reward", *GATED.objective_names]

    def test_openrlhf_logs_every_objective(self, served: Served) -> None:
        answer = clients.openrlhf_agent(url_of(served, "/get_reward"), TEXT, PROMPT)
        assert answer is not None
        assert set(answer["logs"]) == set(GATED.objective_names)
        assert answer["scores"] == answer["rewards"]

    def test_thousands_of_samples_at_once_each_over_a_connection_of_its_own(self, served: Served) -> None:
        """A few hundred, for a test: every one has its own reward."""
        texts = [f"{PROMPT}{'a' * (1 + number % 40)}" for number in range(200)]
        with ThreadPoolExecutor(50) as pool:
            answers = list(
                pool.map(lambda text: clients.openrlhf_agent(url_of(served, "/get_reward"), text, PROMPT), texts)
            )
        assert [answer["logs"]["length"][0] for answer in answers if answer] == pytest.approx(
            [(1 + number % 40) / 100 for number in range(200)]
        )

    def test_a_key_in_the_url_or_in_the_sdk(self) -> None:
        with serving(api_keys="sesame") as running:
            with_key = url_of(running).replace("http://", "http://any:sesame@")
            for name in ("openrlhf", "slime", "verl, vLLM", "verl, SGLang"):
                assert CLIENTS[name](with_key, never) == pytest.approx(CLIENTS["openrlhf"](with_key, never))
            assert clients.llamafactory_rewards(f"{with_key}/v1/score/evaluation", [TEXT])
            assert clients.nemo_curator_rewards(url_of(running, "/v1"), MESSAGES, key="sesame")


class TestRetries:
    @each_client
    def test_weights_that_load_for_longer_than_a_request_waits_are_asked_for_again(self, name: str) -> None:
        may_load, fake, pauses = Event(), FakeEngine(), list[float]()

        def load(_: Settings) -> Engine:
            assert may_load.wait(20)
            return fake.engine()

        with serving(fake, load, max_wait_seconds="0.05") as running:

            def pause(seconds: float) -> None:
                pauses.append(seconds)
                if len(pauses) == 2:
                    may_load.set()
                    wait_until(lambda: running.state.model is not None)

            got = CLIENTS[name](url_of(running), pause)
            assert got == pytest.approx(score(running), abs=1e-9)
            assert len(pauses) == 2
            assert pauses == PAUSES.get(name, pauses)

    @each_client
    def test_a_service_that_is_still_loading_costs_no_attempt(self, name: str) -> None:
        may_load, fake = Event(), FakeEngine()

        def load(_: Settings) -> Engine:
            assert may_load.wait(20)
            return fake.engine()

        with serving(fake, load) as running, ThreadPoolExecutor() as pool:
            getting = pool.submit(CLIENTS[name], url_of(running), never)
            wait_until(lambda: bool(running.server.server_state.tasks))
            assert running.client.get("/readyz").json()["type"] == "not-ready"
            may_load.set()
            assert getting.result() == pytest.approx(score(running), abs=1e-9)

    @each_client
    def test_a_full_service_answers_what_they_try_again(self, name: str) -> None:
        """503, never 429: verl takes 4xx for final."""
        pauses = list[float]()
        with serving(max_queued_tokens="60", max_wait_seconds="0.05") as running, ThreadPoolExecutor() as pool:
            hold(running, pool)
            waiting = pool.submit(running.post, "/score", {"prompt": "x" * 30, "response": "y"})
            wait_until(lambda: running.metric("armoserve_queued_tokens", priority="interactive") > 30)

            def pause(seconds: float) -> None:
                pauses.append(seconds)
                running.fake.release.set()
                assert waiting.result().status_code == 200

            got = CLIENTS[name](url_of(running), pause)
            assert got == pytest.approx(score(running), abs=1e-9)
            assert len(pauses) == 1
            if name not in PAUSES and name != "slime":
                assert pauses[0] >= 1, "the answer says when to come back"

    def test_slime_waits_longer_each_time_and_gives_up(self) -> None:
        pauses = list[float]()
        with serving() as running:
            loaded, running.state.model = running.state.model, None
            with pytest.raises(clients.GaveUp):
                CLIENTS["slime"](url_of(running), pauses.append)
            running.state.model = loaded
        assert [int(seconds) for seconds in pauses] == [1, 2, 4, 8, 16, 30, 30, 30, 30, 30]


class TestFailures:
    """A failure never is a reward to any of them."""

    WRONG = "?template=llama3"

    def test_openrlhf_tries_five_times_and_has_no_reward(self, served: Served) -> None:
        pauses = list[float]()
        url = url_of(served, f"/get_reward{self.WRONG}")
        assert clients.openrlhf_agent(url, TEXT, PROMPT, pauses.append) is None
        assert pauses == [1.0] * 4

    @pytest.mark.parametrize("engine", ["vllm", "sglang"])
    def test_verl_stops_at_once(self, served: Served, engine: str) -> None:
        with pytest.raises(requests.HTTPError) as caught:
            clients.verl_disrm(url_of(served), engine, TEXT, self.WRONG)
        assert caught.value.response.status_code == 400

    def test_llamafactory_finds_no_scores(self, served: Served) -> None:
        with pytest.raises(KeyError, match="scores"):
            clients.llamafactory_rewards(url_of(served, f"/v1/score/evaluation{self.WRONG}"), [TEXT])

    def test_the_sdk_raises_at_once(self, served: Served) -> None:
        with pytest.raises(httpx.HTTPStatusError):
            clients.nemo_curator_rewards(url_of(served, "/v1"), TURNS)

    def test_a_server_without_a_share_answers_openrlhf_too(self, served: Served) -> None:
        answer = requests.post(
            url_of(served, "/get_reward"), json={"query": [], "prompts": [], "labels": []}, timeout=9
        )
        assert answer.json() == {"rewards": [], "scores": [], "extra_logs": {}}
