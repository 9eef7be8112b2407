"""Servers that somebody else started, in an environment of their own: vLLM's pooling server, and infinity.

They are given the rendered texts. Nothing is known of their processes, so they are timed by the wall clock; nor of the
weights they really serve, so scores that differ are said to differ and do not end the measurement.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx

from benchmarks.peers.engines import ELSEWHERE, Scored
from benchmarks.peers.workloads import Request

TIMEOUT_SECONDS: Final = 600.0
HOW_TO_START: Final = """\
servers of an environment of their own, for the same weights:
  python -m benchmarks.peers --write-checkpoint FOLDER
  vllm serve FOLDER --runner pooling --dtype float32 --port 8000      then: --vllm http://127.0.0.1:8000
  infinity_emb v2 --model-id FOLDER --dtype float32 --port 7997       then: --infinity http://127.0.0.1:7997
They must be given the same --layers and --width. infinity serves a classifier of one label as a reranker: prompt and
response are then tokenised apart, without white space at their ends, so its scores differ.
"""


class RunningServer:
    """What vLLM and infinity have in common."""

    name = "a server"
    process_id = ELSEWHERE
    models_path = "/models"

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._model: dict[str, Any] = {}

    async def connect(self) -> None:
        """Learn which model it serves.

        Raises:
            SystemExit: it does not answer, or not as this kind of server does.
        """
        answer = await self._ask("GET", self.models_path)
        try:
            self._model = answer["data"][0]
            self._model["id"]
        except (KeyError, IndexError, TypeError) as error:
            raise self._odd(self.models_path, answer) from error

    async def score(self, request: Request) -> Scored:
        """Score all texts; how many tokens were computed is not said, so those of the texts are counted."""
        scores = await self._scores(request)
        if len(scores) != len(request.texts):
            raise SystemExit(f"{self.name}: {len(scores)} scores for {len(request.texts)} texts")
        return Scored(scores, request.num_tokens)

    async def _scores(self, request: Request) -> list[float]:
        raise NotImplementedError

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        try:
            answer = await self._client.request(method, path, json=body)
            content = answer.json() if answer.status_code == httpx.codes.OK else None
        except httpx.HTTPError as error:
            where = self._client.base_url
            raise SystemExit(
                f"{self.name} at {where} gives no answer to {path}: {error or type(error).__name__}"
            ) from error
        except ValueError as error:
            raise SystemExit(f"{self.name}: {path} answered with what is no JSON: {answer.text[:200]}") from error
        if content is None:
            raise SystemExit(f"{self.name}: {path} answered {answer.status_code}: {answer.text[:500]}")
        return content

    def _odd(self, path: str, answer: Any) -> SystemExit:
        return SystemExit(f"{self.name}: {path} answered in another format than is known: {str(answer)[:500]}")


class Vllm(RunningServer):
    """vLLM's /classify: a text is a prompt as it is, and the one logit comes without an activation."""

    name = "vLLM's pooling server"
    models_path = "/v1/models"

    async def _scores(self, request: Request) -> list[float]:
        raw = {"use_activation": False, "add_special_tokens": False}
        body = {"model": self._model["id"], "input": list(request.texts), **raw}
        answer = await self._ask("POST", "/classify", body)
        try:
            rows = sorted(answer["data"], key=lambda row: int(row["index"]))
            return [float(logit) for row in rows for (logit,) in [row["probs"]]]
        except (KeyError, TypeError, ValueError) as error:
            raise self._odd("/classify", answer) from error


class Infinity(RunningServer):
    """infinity's /rerank or /classify, whichever it has for this model, without the sigmoid."""

    name = "infinity"

    async def _scores(self, request: Request) -> list[float]:
        if "rerank" in self._model.get("capabilities", ()):
            return [score for query, documents in pairs_of(request) for score in await self._rerank(query, documents)]
        body = {"model": self._model["id"], "input": list(request.texts), "raw_scores": True}
        answer = await self._ask("POST", "/classify", body)
        try:
            return [float(label["score"]) for (label,) in answer["data"]]
        except (KeyError, TypeError, ValueError) as error:
            raise self._odd("/classify", answer) from error

    async def _rerank(self, query: str, documents: Sequence[str]) -> list[float]:
        body = {"model": self._model["id"], "query": query, "documents": list(documents), "raw_scores": True}
        answer = await self._ask("POST", "/rerank", body)
        try:
            rows = sorted(answer["results"], key=lambda row: int(row["index"]))
            return [float(row["relevance_score"]) for row in rows]
        except (KeyError, TypeError, ValueError) as error:
            raise self._odd("/rerank", answer) from error


def pairs_of(request: Request) -> list[tuple[str, list[str]]]:
    """Return each item's rendered prompt, up to the end of what was asked, and what follows it for each response."""
    texts, pairs = iter(request.texts), []
    for item in request.items:
        asked = item.prompt[-1].content
        of_item = [next(texts) for _ in item.responses]
        # The same in all of an item's texts: they begin alike.
        end = of_item[0].index(asked) + len(asked)
        pairs.append((of_item[0][:end], [text[end:] for text in of_item]))
    return pairs


@asynccontextmanager
async def running_servers(vllm: str | None, infinity: str | None) -> AsyncIterator[list[RunningServer]]:
    """Connect to the servers at these URLs, where there are some."""
    async with (
        httpx.AsyncClient(base_url=vllm or "", timeout=TIMEOUT_SECONDS, trust_env=False) as first,
        httpx.AsyncClient(base_url=infinity or "", timeout=TIMEOUT_SECONDS, trust_env=False) as second,
    ):
        servers: list[RunningServer] = [Vllm(first)] if vllm else []
        servers += [Infinity(second)] if infinity else []
        for server in servers:
            await server.connect()
        yield servers
