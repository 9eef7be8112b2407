"""The engines of this process: armoserve's own, and what transformers offers for the same checkpoint.

Those of transformers get every advantage that costs no thought: the texts rendered already, float32 and fused
attention as here, the sequence classifier as it is published, no cache of keys that nobody reads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from app.domain import TokenizedConversation
from app.engine import Engine
from app.loading import load_checked_engine
from app.serving.pack_plan import PackPlan
from app.settings import Settings
from benchmarks.peers.workloads import Request

BATCH_SIZE: Final = 16
THIS_PROCESS: Final = 0
ELSEWHERE: Final = -1
"""A process of which nothing is known, but when it answers."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A score per conversation, in order, and how many tokens were computed for them, padding included."""

    scores: list[float]
    computed_tokens: int


class Peer(Protocol):
    """Whatever scores conversations."""

    @property
    def name(self) -> str: ...

    @property
    def process_id(self) -> int:
        """Of the process that computes; `THIS_PROCESS` where that is this one, `ELSEWHERE` where it is out of reach."""

    async def score(self, request: Request) -> Scored: ...


class InProcess:
    """armoserve without its service: tokenise, pack, forward."""

    name = "armoserve, in process"
    process_id = THIS_PROCESS

    def __init__(self, folder: Path, *, prefix_cache_bytes: int | None = None) -> None:
        settings = Settings(weights=str(folder), dtype="float32", prefix_cache_bytes=prefix_cache_bytes)
        self.engine: Engine = load_checked_engine(settings)
        memory = self.engine.prefix_memory
        self._plan = PackPlan(settings.max_pack_tokens, recall=None if memory is None else memory.find)

    async def score(self, request: Request) -> Scored:
        return self.compute(self.encode(request))

    def encode(self, request: Request) -> list[TokenizedConversation]:
        return [one for item in request.items for one in self.engine.encode(item, "never").conversations]

    def compute(self, conversations: Sequence[TokenizedConversation]) -> Scored:
        """Score what is tokenised, in packs as large as the service would make them."""
        scores: list[float] = []
        computed_tokens = 0
        waiting = list(conversations)
        while waiting:
            builder = self._plan.new_pack()
            added = 0
            while added < len(waiting) and builder.try_add(waiting[added]):
                added += 1
            del waiting[:added]
            pack = builder.build()
            output = self.engine.forward(pack)
            computed_tokens += pack.num_tokens
            values_R = output.rewards_RK[:, 0] if output.scores_R is None else output.scores_R
            scores += values_R.tolist()
        return Scored(scores, computed_tokens)


class Classifier:
    """The checkpoint as transformers loads it."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.model = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="sdpa", local_files_only=True
        ).eval()

    @torch.inference_mode()
    def scores(self, texts: Sequence[str]) -> list[float]:
        """Score one batch, padded on the right to its longest text."""
        batch = self.tokenizer(list(texts), padding=True, add_special_tokens=False, return_tensors="pt")
        logits_R1 = self.model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
        ).logits
        scores: list[float] = logits_R1[:, 0].tolist()
        return scores


@dataclass(frozen=True, slots=True)
class OneByOne:
    """As ArmoRM's model card does it: one conversation after the other."""

    classifier: Classifier
    name: str = "transformers, one by one"
    process_id: int = THIS_PROCESS

    async def score(self, request: Request) -> Scored:
        scores = [self.classifier.scores([text])[0] for text in request.texts]
        return Scored(scores, request.num_tokens)


@dataclass(frozen=True, slots=True)
class PaddedBatches:
    """As most evaluation scripts do it: padded batches in the order given."""

    classifier: Classifier
    name: str = "transformers, padded batches"
    process_id: int = THIS_PROCESS

    async def score(self, request: Request) -> Scored:
        starts = range(0, len(request.texts), BATCH_SIZE)
        scores = [one for start in starts for one in self.classifier.scores(request.texts[start : start + BATCH_SIZE])]
        return Scored(scores, padded_tokens(request.lengths))


class TextClassification:
    """As TRL's and RewardBench's users do it: transformers' pipeline, without its sigmoid."""

    name = "transformers, text-classification pipeline"
    process_id = THIS_PROCESS

    def __init__(self, classifier: Classifier) -> None:
        self._pipeline: Any = pipeline("text-classification", model=classifier.model, tokenizer=classifier.tokenizer)

    async def score(self, request: Request) -> Scored:
        with torch.inference_mode():
            labels = self._pipeline(list(request.texts), batch_size=BATCH_SIZE, function_to_apply="none")
        return Scored([label["score"] for label in labels], padded_tokens(request.lengths))


def padded_tokens(lengths: Sequence[int], batch_size: int = BATCH_SIZE) -> int:
    """Return how many tokens padded batches compute, in the order given."""
    batches = [lengths[start : start + batch_size] for start in range(0, len(lengths), batch_size)]
    return sum(len(batch) * max(batch) for batch in batches)
