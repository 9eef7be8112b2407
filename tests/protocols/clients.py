"""The loops of real clients, small, as their sources have them: what they send, read and believe, and when they retry.

Each is handed `pause` in place of sleeping, so that a test sees how long it would have waited, and waits for less.
"""

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import requests

Pause = Callable[[float], None]


class GaveUp(Exception):
    """The client tried as often as it does."""


def never(seconds: float) -> None:
    raise AssertionError(f"the client would have paused for {seconds} s")


def openrlhf_agent(url: str, query: str, prompt: str, pause: Pause = never) -> dict[str, Any] | None:
    """Reward one sample as `SingleTurnAgentExecutor` does (0.9.1 on): a connection of its own, five attempts.

    Whatever goes wrong, 4xx too, is tried again a second later; in the end there is no reward.
    """
    for attempt in range(5):
        if attempt:
            pause(1.0)
        try:
            with httpx.Client(timeout=180) as client:
                body = {"query": [query], "prompts": [prompt], "labels": [None]}
                answer = client.post(url, json=body).raise_for_status().json()
                assert "rewards" in answer
        except httpx.HTTPError:
            continue
        scores = answer.get("scores")
        # What it makes tensors of: numbers, or lists of numbers.
        logs = {name: [float(value) for value in values] for name, values in answer.get("extra_logs", {}).items()}
        return {"rewards": answer["rewards"], "scores": answer["rewards"] if scores is None else scores, "logs": logs}
    return None


def slime_remote_rm(url: str, sample: dict[str, Any], reward_key: str | None = "score", pause: Pause = never) -> Any:
    """Reward one sample as `remote_rm` does: ten attempts, pauses that double up to 30 s, and a reward key."""
    for attempt in range(10):
        try:
            response = requests.post(url, json=sample, timeout=120)
            response.raise_for_status()
            return response.json()[reward_key] if reward_key else response.json()
        except requests.RequestException:
            pause(min(2**attempt, 30) + random.random())
    raise GaveUp


def llamafactory_rewards(url: str, messages: Sequence[str]) -> list[float]:
    """Reward texts as `get_rewards_from_server` does: once, without a timeout, whatever the status is."""
    headers = {"Content-Type": "application/json"}
    response = requests.post(url, json={"model": "model", "messages": list(messages)}, headers=headers)
    return [float(score) for score in json.loads(response.text)["scores"]]


def verl_disrm(server: str, engine: str, text: str, options: str = "", pause: Pause = never) -> float:
    """Reward one text as `compute_score_disrm` does, behind vLLM (without BOS) or SGLang: 16 attempts; 4xx is final."""
    if engine == "vllm":
        body = {"model": "reward", "input": text.removeprefix("<|begin_of_text|>"), "use_activation": False}
        return float(_verl_post(f"{server}/classify{options}", body, pause)["data"][-1]["probs"][-1])
    body = {"model": "reward", "input": text}
    return float(_verl_post(f"{server}/v1/embeddings{options}", body, pause)["data"][-1]["embedding"][-1])


def _verl_post(url: str, body: dict[str, Any], pause: Pause) -> Any:
    for attempt in range(16):
        try:
            response = requests.post(url, json=body)
            response.raise_for_status()
            return response.json()
        except requests.HTTPError as error:
            if error.response.status_code < 500:
                raise
            pause(min(2**attempt, 30))
        except requests.ConnectionError:
            pause(min(2**attempt, 30))
    raise GaveUp


def openai_post(base: str, path: str, body: dict[str, Any], key: str = "none", pause: Pause = never) -> Any:
    """Post as OpenAI's SDK does with `max_retries=3` (CAMEL): 408, 409, 429 and 5xx again, `Retry-After` honoured."""
    for attempt in range(4):
        try:
            with httpx.Client(timeout=180, headers={"Authorization": f"Bearer {key}"}) as client:
                return client.post(f"{base}{path}", json=body).raise_for_status().json()
        except httpx.HTTPStatusError as error:
            if attempt == 3 or not (error.response.status_code in {408, 409, 429} or error.response.status_code >= 500):
                raise
            asked = float(error.response.headers.get("retry-after", 0))
            pause(asked if 0 < asked <= 60 else min(0.5 * 2**attempt, 8.0))
    raise GaveUp


def nemo_curator_rewards(base: str, turns: Sequence[dict[str, str]], **how: Any) -> dict[str, float]:
    """Return what `OpenAIClient.query_reward_model` and CAMEL's `NemotronRewardModel.evaluate` read."""
    body = {"messages": list(turns), "model": "nvidia/nemotron-4-340b-reward"}
    choice = openai_post(base, "/chat/completions", body, **how)["choices"][0]
    if choice["logprobs"] is None:
        raise ValueError("logprobs is None")
    return {one["token"]: one["logprob"] for one in choice["logprobs"]["content"]}


def split_colon_reward(base: str, turns: Sequence[dict[str, str]], **how: Any) -> float:
    """Return what clients of Llama-3.1-Nemotron-70B-Reward read."""
    body = {"messages": list(turns), "model": "nvidia/llama-3.1-nemotron-70b-reward"}
    message = openai_post(base, "/chat/completions", body, **how)["choices"][0]["message"]
    return float(message["content"].split(":")[-1])


def openai_embeddings(base: str, texts: Sequence[str], **how: Any) -> list[Any]:
    """Return the embeddings as the SDK gets them, which asks for base64 unless told otherwise."""
    body = {"input": list(texts), "model": "reward", "encoding_format": "base64"}
    return [one["embedding"] for one in openai_post(base, "/embeddings", body, **how)["data"]]


def cohere_rerank(server: str, query: str, documents: Sequence[str], **how: Any) -> list[tuple[int, float]]:
    """Return (index, relevance) as Cohere's `ClientV2.rerank` has them."""
    body = {"model": "rerank-v3.5", "query": query, "documents": list(documents), "top_n": len(documents)}
    results = openai_post(server, "/v2/rerank", body | {"max_tokens_per_doc": 4096}, **how)["results"]
    return [(one["index"], one["relevance_score"]) for one in results]


def jina_rerank(server: str, query: str, documents: Sequence[str], **how: Any) -> list[tuple[str, float]]:
    """Return (text, relevance) as LangChain's and LlamaIndex's Jina rerankers do; documents may be objects."""
    body = {"model": "jina-reranker-v2", "query": query, "documents": [{"text": one} for one in documents]}
    results = openai_post(server, "/v1/rerank", body | {"top_n": None, "return_documents": True}, **how)["results"]
    return [(one["document"]["text"], one["relevance_score"]) for one in results]


def vllm_rerank(server: str, query: str, documents: Sequence[str], **how: Any) -> list[tuple[int, float]]:
    """Return (index, relevance) as vLLM's examples do, for which `top_n` 0 is all."""
    body = {"model": "m", "query": query, "documents": list(documents), "top_n": 0}
    return [(one["index"], one["relevance_score"]) for one in openai_post(server, "/rerank", body, **how)["results"]]
