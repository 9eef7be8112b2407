"""Responses from an OpenAI-compatible server of chat completions, vLLM for one. Knows its wire format and no tensor.

Which policy the server runs is its own matter: after an update it must be given the new weights.
"""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import numpy as np
from tqdm import tqdm

from app.domain import Message
from app.errors import ArmoserveError, BadAnswer, RequestRefused, ServiceUnreachable

Prompt = tuple[Message, ...]
TRANSIENT: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
LONGEST_PAUSE_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class OpenAISampler:
    """Asks `POST {url}/chat/completions` for n completions of each prompt, `max_in_flight` prompts at once.

    Each prompt has its own seed. Whether one seed gives one response is up to the server: vLLM's do not under every
    batch it makes.
    """

    url: str
    """Up to and with `/v1`."""
    model: str
    max_new_tokens: int
    temperature: float = 1.0
    api_key: str | None = None
    max_in_flight: int = 16
    retry_seconds: float = 600.0
    timeout_seconds: float = 600.0
    """Of one answer: n whole responses."""
    transport: httpx.BaseTransport | None = field(default=None, repr=False)

    def sample(self, prompts: Sequence[Prompt], n: int, seed: int) -> list[list[str]]:
        """Return n responses per prompt, in order. After a failure nothing further is asked.

        Raises:
            RequestRefused: the server will not take a request.
            BadAnswer: an answer does not hold n texts.
            ServiceUnreachable: a prompt had no answer within `retry_seconds`.
        """
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        stopped = threading.Event()
        with (
            httpx.Client(transport=self.transport, timeout=self.timeout_seconds, headers=headers) as http,
            ThreadPoolExecutor(self.max_in_flight, thread_name_prefix="sample") as pool,
        ):
            asked = [self._request(prompt, n, (seed, index)) for index, prompt in enumerate(prompts)]
            faults: list[ArmoserveError] = []

            def ask(request: dict[str, Any]) -> list[str]:
                try:
                    return self._ask(http, request, stopped)
                except ArmoserveError as error:
                    faults.append(error)  # those that are stopped by it fail later: the first is the cause
                    stopped.set()
                    raise faults[0] from None

            answers = [pool.submit(ask, request) for request in asked]
            try:
                return [answer.result() for answer in tqdm(answers, desc="sample", unit="prompt", leave=False)]
            finally:
                stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)

    def _request(self, prompt: Prompt, n: int, name: tuple[int, int]) -> dict[str, Any]:
        return {
            "model": self.model,
            "messages": [{"role": message.role, "content": message.content} for message in prompt],
            "n": n,
            "temperature": self.temperature,
            "top_p": 1.0,  # a server may otherwise take the checkpoint's own
            "max_tokens": self.max_new_tokens,
            "seed": int(np.random.SeedSequence(name).generate_state(1)[0] >> 1),
        }

    def _ask(self, http: httpx.Client, request: dict[str, Any], stopped: threading.Event) -> list[str]:
        """Ask for one prompt until it is answered; waits grow, and are drawn so that not all come back at once."""
        jitter = np.random.default_rng(request["seed"])
        started, pause, reason = time.monotonic(), 0.25, ""
        while not stopped.is_set():
            try:
                answer = http.post(f"{self.url.rstrip('/')}/chat/completions", json=request)
                if answer.status_code not in TRANSIENT:
                    return texts_of(answer, int(request["n"]))
                reason = f"status {answer.status_code}"
            except httpx.TransportError as error:
                reason = type(error).__name__
            if time.monotonic() - started + pause > self.retry_seconds:
                break
            stopped.wait(pause * jitter.uniform(0.5, 1.0))
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        raise ServiceUnreachable(f"the server of the policy gave no answer in {self.retry_seconds:.0f} s: {reason}")


def texts_of(answer: httpx.Response, n: int) -> list[str]:
    """Return the n texts of an answer in the order of their index; a completion without content is "".

    Raises:
        RequestRefused: its status is no success.
        BadAnswer: it is not JSON, or does not hold n completions with text.
    """
    if not answer.is_success:
        raise RequestRefused(answer.status_code, "sampling", "chat completions", "see the log of the policy's server")
    try:
        choices = sorted(answer.json()["choices"], key=lambda choice: int(choice["index"]))
        texts = [choice["message"]["content"] for choice in choices]
    except (ValueError, KeyError, TypeError) as error:
        raise BadAnswer("the server of the policy answered something else than chat completions") from error
    if [choice["index"] for choice in choices] != list(range(n)):
        raise BadAnswer(f"the server of the policy gave {len(choices)} completions where {n} are due")
    if not all(text is None or isinstance(text, str) for text in texts):
        raise BadAnswer("the server of the policy gave a completion whose content is no text")
    return [text or "" for text in texts]
