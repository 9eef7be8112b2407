"""Sampling: the distribution of the policy itself, the same whatever the batch, and masks that say what it chose."""

import dataclasses
import json

import httpx
import numpy as np
import pytest
import torch

from app.domain import Message
from app.errors import BadAnswer, RequestRefused, ServiceUnreachable
from training.errors import InvalidRecipe
from training.policy.configs import PolicyRecipe, SamplingConfig, TinyConfig
from training.policy.policy import Policy
from training.policy.sampling import OpenAISampler, TransformersSampler, draw, padded, positions, sampler_of
from training.policy.tiny import tiny_policy

PROMPTS = tuple((Message("user", text),) for text in ("hello", "a rather longer prompt than that", "hello", "x y"))


@pytest.fixture(scope="module")
def policy() -> Policy:
    sizes = TinyConfig(vocabulary_size=300, hidden_size=16, intermediate_size=32, attention_heads=2)
    policy = tiny_policy(["hello world, a text"], sizes, seed=0)
    for parameter in policy.model.parameters():
        parameter.data.mul_(6.0)  # far from uniform, so that what it is told matters
    bias = policy.model.lm_head.weight.data  # tied to the embeddings
    bias[policy.tokenizer.eos_token_id] = bias.mean(dim=0) + 0.2
    return policy


def sampler(policy: Policy, batch_size: int = 64, temperature: float = 1.0, tokens: int = 12) -> TransformersSampler:
    return TransformersSampler(policy, tokens, temperature, batch_size, shows=False)


def test_responses_are_the_same_whatever_the_batch_and_the_neighbours(policy: Policy) -> None:
    whole = sampler(policy).sample(PROMPTS, 5, seed=1)
    for batch_size in (1, 3, 7):
        assert sampler(policy, batch_size).sample(PROMPTS, 5, seed=1) == whole
    assert sampler(policy).sample(PROMPTS[:2], 3, seed=1) == [responses[:3] for responses in whole[:2]]


def test_seeds_and_numbers_give_other_responses(policy: Policy) -> None:
    first, second = (sampler(policy).sample(PROMPTS, 5, seed=seed) for seed in (1, 2))
    assert first != second
    assert all(len(set(responses)) > 1 for responses in first)
    assert first[0] != first[2], "equal prompts have streams of their own"


def test_each_token_is_what_its_random_number_picks_given_all_before_it(policy: Policy) -> None:
    """The reference: no cache, no padding, no sharing of prompts."""
    batch = sampler(policy, tokens=8).sample_tokens(PROMPTS, 3, seed=4)
    for row in range(len(PROMPTS) * 3):
        ids = policy.encode(PROMPTS[row // 3])
        uniforms = np.random.default_rng((4, row // 3, row % 3)).random(8)
        expected: list[int] = []
        for uniform in uniforms:
            with torch.no_grad():
                logits_BV = policy.model(torch.tensor([ids + expected])).logits[:, -1]
            expected.append(int(draw(logits_BV, torch.tensor([uniform]), 1.0)))
            if expected[-1] == policy.tokenizer.eos_token_id:
                break
        assert batch.response_ids[row][batch.response_mask[row]].tolist() == expected


def test_masks_cover_prompt_and_response_with_what_ends_it(policy: Policy) -> None:
    batch = sampler(policy, tokens=20).sample_tokens(PROMPTS, 16, seed=0)
    ended = 0
    for row in range(len(batch.texts)):
        assert batch.prompt_ids[row][batch.prompt_mask[row]].tolist() == policy.encode(PROMPTS[row // 16])
        assert batch.prompt_mask[row, -1], "a response follows its prompt at once"
        ids = batch.response_ids[row][batch.response_mask[row]].tolist()
        assert policy.tokenizer.eos_token_id not in ids[:-1]
        assert len(ids) == 20 or ids[-1] == policy.tokenizer.eos_token_id
        assert policy.decode(ids) == batch.texts[row]
        assert not batch.response_mask[row, len(ids) :].any()
        ended += ids[-1] == policy.tokenizer.eos_token_id
    assert 0 < ended < len(batch.texts)


def test_a_response_that_ends_at_once_is_an_empty_text(policy: Policy) -> None:
    batch = sampler(policy, tokens=3).sample_tokens(PROMPTS, 200, seed=0)
    empty = [row for row, text in enumerate(batch.texts) if not text and batch.response_mask[row].sum() == 1]
    assert empty
    assert all(batch.response_ids[row, 0] == policy.tokenizer.eos_token_id for row in empty)


def test_tokens_are_drawn_as_often_as_the_policy_says() -> None:
    logits_V = torch.tensor([0.0, 1.0, -30.0, 2.0])
    uniforms_B = torch.linspace(0, 1, 20_001, dtype=torch.float64)[:-1]
    for temperature in (1.0, 0.5):
        drawn_B = draw(logits_V.expand(20_000, 4), uniforms_B, temperature)
        shares = torch.bincount(drawn_B, minlength=4) / 20_000
        torch.testing.assert_close(shares, torch.softmax(logits_V / temperature, dim=-1), atol=1e-3, rtol=0)
    assert draw(logits_V[None], torch.tensor([1 - 2**-53], dtype=torch.float64), 1.0).item() == 3


def test_the_model_goes_on_training_after_it_was_sampled(policy: Policy) -> None:
    policy.model.train()
    sampler(policy, tokens=2).sample(PROMPTS[:1], 1, seed=0)
    assert policy.model.training
    policy.model.eval()


def test_the_cache_that_trainers_turn_off_is_on(policy: Policy) -> None:
    whole = sampler(policy).sample(PROMPTS, 2, seed=1)
    policy.model.config.use_cache = False
    try:
        assert sampler(policy).sample(PROMPTS, 2, seed=1) == whole
    finally:
        policy.model.config.use_cache = True


def test_padding_stands_on_the_side_that_is_asked_for() -> None:
    ids_BT, mask_BT = padded([[1, 2, 3], [4]], "cpu", on_the_left=True)
    assert ids_BT.tolist() == [[1, 2, 3], [0, 0, 4]]
    assert positions(mask_BT).tolist() == [[0, 1, 2], [0, 0, 0]]
    ids_BT, mask_BT = padded([[1, 2, 3], [4]], "cpu")
    assert ids_BT.tolist() == [[1, 2, 3], [4, 0, 0]]
    assert mask_BT.tolist() == [[True, True, True], [True, False, False]]


class Server:
    """An OpenAI-compatible server that fails first, as often as it is told to."""

    def __init__(self, *failures: httpx.Response | Exception) -> None:
        self.failures = list(failures)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if self.failures:
            failure = self.failures.pop(0)
            if isinstance(failure, Exception):
                raise failure
            return failure
        asked = json.loads(request.content)
        last = asked["messages"][-1]["content"]
        choices = [{"index": i, "message": {"role": "assistant", "content": f"{last}-{i}"}} for i in range(asked["n"])]
        return httpx.Response(200, json={"choices": choices[::-1]})


def openai(server: Server, **settings: object) -> OpenAISampler:
    transport = httpx.MockTransport(server)
    known: dict[str, object] = {"retry_seconds": 5.0, "max_in_flight": 1} | settings
    return OpenAISampler("http://127.0.0.1:1/v1", "policy", 7, 0.7, transport=transport, **known)  # type: ignore[arg-type]


def answer(*texts: object) -> httpx.Response:
    choices = [{"index": index, "message": {"content": text}} for index, text in enumerate(texts)]
    return httpx.Response(200, json={"choices": choices})


def test_a_server_is_asked_for_n_responses_of_each_prompt() -> None:
    server = Server()
    assert openai(server, api_key="k", max_in_flight=4).sample(PROMPTS[:2], 2, seed=3) == [
        ["hello-0", "hello-1"],
        [f"{PROMPTS[1][0].content}-0", f"{PROMPTS[1][0].content}-1"],
    ]
    bodies = [json.loads(request.content) for request in server.requests]
    assert {str(request.url) for request in server.requests} == {"http://127.0.0.1:1/v1/chat/completions"}
    assert {request.headers["authorization"] for request in server.requests} == {"Bearer k"}
    assert all(body["n"] == 2 and body["temperature"] == 0.7 and body["max_tokens"] == 7 for body in bodies)
    assert len({body["seed"] for body in bodies}) == 2


def test_one_seed_asks_for_the_same() -> None:
    first, second, other = Server(), Server(), Server()
    openai(first).sample(PROMPTS, 1, seed=3)
    openai(second).sample(PROMPTS, 1, seed=3)
    openai(other).sample(PROMPTS, 1, seed=4)
    contents = [[request.content for request in server.requests] for server in (first, second, other)]
    assert contents[0] == contents[1] != contents[2]


def test_a_server_that_is_away_for_a_while_is_waited_for() -> None:
    server = Server(httpx.ConnectError("away"), httpx.Response(503), httpx.Response(429))
    assert openai(server).sample(PROMPTS[:1], 1, seed=0) == [["hello-0"]]
    assert len(server.requests) == 4


def test_a_server_that_stays_away_ends_the_run() -> None:
    server = Server(*[httpx.Response(503)] * 50)
    with pytest.raises(ServiceUnreachable, match="status 503"):
        openai(server, retry_seconds=0.1).sample(PROMPTS[:1], 1, seed=0)


@pytest.mark.parametrize(
    "bad",
    [
        answer("one"),
        answer("1", "2", "3"),
        answer("1", 2),
        httpx.Response(200, text="no"),
        httpx.Response(200, json={}),
    ],
)
def test_an_answer_of_another_length_or_kind_is_not_believed(bad: httpx.Response) -> None:
    with pytest.raises(BadAnswer):
        openai(Server(bad)).sample(PROMPTS[:1], 2, seed=0)


def test_a_refusal_is_not_asked_again() -> None:
    server = Server(httpx.Response(400, text="secret"))
    with pytest.raises(RequestRefused) as caught:
        openai(server).sample(PROMPTS[:3], 1, seed=0)
    assert "secret" not in str(caught.value)
    assert len(server.requests) == 1


def test_no_content_is_an_empty_text() -> None:
    assert openai(Server(answer(None, "x"))).sample(PROMPTS[:1], 2, seed=0) == [["", "x"]]


def test_the_recipe_chooses_who_samples(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = PolicyRecipe("w")
    assert isinstance(sampler_of(recipe, policy), TransformersSampler)
    served = SamplingConfig(backend="openai", url="http://127.0.0.1:1/v1", model="m", api_key_env="SAMPLING_KEY")
    recipe = dataclasses.replace(recipe, sampling=served)
    monkeypatch.delenv("SAMPLING_KEY", raising=False)
    with pytest.raises(InvalidRecipe, match="no variable SAMPLING_KEY"):
        sampler_of(recipe, policy)
    monkeypatch.setenv("SAMPLING_KEY", "k")
    chosen = sampler_of(recipe, policy, temperature=0.7)
    assert isinstance(chosen, OpenAISampler)
    assert (chosen.api_key, chosen.temperature, chosen.max_new_tokens) == ("k", 0.7, 256)
