"""OpenRLHF's reward model server, written anew from its documented behaviour (`openrlhf.cli.serve_rm`, 0.11).

    python -m benchmarks.peers.openrlhf_server FOLDER PORT BATCH_SIZE

One route, POST /get_reward, computed on the event loop: one request at a time, its queries in micro-batches padded on
the left, positions counted from the first token. Not imitated: texts cut at 2,048 tokens, the log line per request.
"""

import sys
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI, Request
from transformers import AutoModelForSequenceClassification, AutoTokenizer


class RewardModelProxy:
    """Scores queries batch by batch."""

    def __init__(self, folder: str, batch_size: int) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left", local_files_only=True)
        self._model = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="sdpa", local_files_only=True
        ).eval()
        self._batch_size = batch_size

    @torch.inference_mode()
    def rewards(self, queries: list[str]) -> list[float]:
        rewards: list[float] = []
        for start in range(0, len(queries), self._batch_size):
            texts = queries[start : start + self._batch_size]
            batch = self._tokenizer(texts, padding=True, add_special_tokens=False, return_tensors="pt")
            mask = batch["attention_mask"]
            positions = (mask.cumsum(dim=-1) - 1).clamp(min=0)
            output = self._model(batch["input_ids"], attention_mask=mask, position_ids=positions, use_cache=False)
            rewards += output.logits[:, 0].tolist()
        return rewards


def main() -> None:
    """Serve until a signal."""
    folder, port, batch_size = sys.argv[1:]
    proxy = RewardModelProxy(folder, int(batch_size))
    app = FastAPI()

    @app.post("/get_reward")
    async def get_reward(request: Request) -> dict[str, Any]:
        data = await request.json()
        rewards = proxy.rewards(data["query"])
        return {"rewards": rewards, "scores": rewards, "extra_logs": {"dummy_scores": rewards}}

    @app.get("/readyz")
    async def ready() -> None:
        """Answer: what it is waited for by."""

    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning")


if __name__ == "__main__":
    main()
