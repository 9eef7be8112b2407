"""How each trainer route is asked to reward conversations, and where its answer has the rewards."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tests.api.serving import Served

Turns = list[dict[str, str]]
Read = Callable[[Any], list[float]]


@dataclass(frozen=True)
class Wire:
    """One route in one of its forms; `body` makes a request of what the form takes."""

    path: str
    body: Callable[..., Any]
    read: Read

    def ask(self, served: Served, query: str, *asked: Any) -> list[float]:
        answer = served.post(f"{self.path}{query}", self.body(*asked))
        assert answer.status_code == 200, answer.text
        return self.read(answer.json())


def in_order_of_documents(answer: Any) -> list[float]:
    values = [result["relevance_score"] for result in answer["results"]]
    assert values == sorted(values, reverse=True)
    return [one["relevance_score"] for one in sorted(answer["results"], key=lambda result: result["index"])]


def probs(answer: Any) -> list[float]:
    return [one["probs"][-1] for one in answer["data"]]


def pooled(answer: Any) -> list[float]:
    return [one["data"][0] for one in answer["data"]]


def embedded(answer: Any) -> list[float]:
    return [one["embedding"][-1] for one in answer["data"]]


def chat_reward(answer: Any) -> list[float]:
    (choice,) = answer["choices"]
    values = {one["token"]: one["logprob"] for one in choice["logprobs"]["content"]}
    assert float(choice["message"]["content"].split(":")[-1]) == values["reward"]
    return [values["reward"]]


TEXTS: dict[str, Wire] = {
    "openrlhf": Wire("/get_reward", lambda texts: {"query": texts}, lambda answer: list(answer["rewards"])),
    "llamafactory": Wire(
        "/v1/score/evaluation",
        lambda texts: {"model": "model", "messages": texts},
        lambda answer: list(answer["scores"]),
    ),
    "classify": Wire("/classify", lambda texts: {"model": "m", "input": texts, "use_activation": False}, probs),
    "pooling": Wire("/pooling", lambda texts: {"model": "m", "input": texts}, pooled),
    "embeddings": Wire("/v1/embeddings", lambda texts: {"model": "m", "input": texts}, embedded),
}
"""Forms that take whole texts and say nothing else."""

PROMPTED: dict[str, Wire] = {
    "openrlhf": Wire(
        "/get_reward",
        lambda prompt, responses: {"query": [prompt + one for one in responses], "prompts": [prompt] * len(responses)},
        lambda answer: list(answer["rewards"]),
    ),
    **{
        path: Wire(path, lambda prompt, responses: {"query": prompt, "documents": responses}, in_order_of_documents)
        for path in ("/rerank", "/v1/rerank", "/v2/rerank")
    },
}
"""Forms that take a prompt and its responses; rerankers have a template only where the URL names one."""

MESSAGES: dict[str, Wire] = {
    "classify": Wire("/classify", lambda messages: {"model": "m", "messages": messages}, probs),
    "pooling": Wire("/pooling", lambda messages: {"messages": messages}, pooled),
    "embeddings": Wire("/v1/embeddings", lambda messages: {"messages": messages}, embedded),
    "chat": Wire("/v1/chat/completions", lambda messages: {"model": "m", "messages": messages}, chat_reward),
}
"""Forms that take one conversation that no template has rendered."""


def messages_of(prompt: Sequence[dict[str, str]], response: str) -> Turns:
    return [*prompt, {"role": "assistant", "content": response}]
