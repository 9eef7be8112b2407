"""A body per route that the served weights can answer, for the OpenAPI document: each works when it is pasted."""

from typing import Any

from app.domain import ModelInfo

PROMPT = 'What are some synonyms for the word "beautiful"?'
RESPONSES = ("Nicely, Beautifully, Handsome, Stunning, Wonderful", "No.")
RENDERED = f"<|im_start|>user\n{PROMPT}<|im_end|>\n<|im_start|>assistant\n{RESPONSES[0]}<|im_end|>\n"
RENDERED_PATHS = frozenset({"/v1/score/evaluation"})
"""Their bodies hold texts and nothing else, so the URL of their example names the template of the text."""


def examples_for(info: ModelInfo | None) -> dict[str, dict[str, Any]]:
    """Return a body per route; with `info`, it uses the names of the weights that are served."""
    item: dict[str, Any] = {"prompt": PROMPT, "responses": list(RESPONSES)}
    score = dict(item)
    targets: dict[str, int] = {"helpfulness": 5, "honesty": 3}
    if info is not None:
        if not info.has_scalar:
            score["preferences"] = [{info.objective_names[0]: 1.0}]
        targets = {head.name: head.classes for head in info.heads}
    return {
        "/score": score,
        "/objectives": {**score, "top_k": 3} if info is None or info.has_gating else score,
        "/moslim-classify": {**item, "targets": targets},
        "/tokenize": item,
        **_trainer_examples(),
    }


def options_for(path: str, info: ModelInfo | None) -> dict[str, str]:
    """Return the options in the URL of a trainer route's example."""
    needs_preference = info is not None and not info.has_scalar
    preference = {"preference": f"{info.objective_names[0]}:1"} if info is not None and needs_preference else {}
    return preference | ({"template": "chatml"} if path in RENDERED_PATHS else {})


def _trainer_examples() -> dict[str, dict[str, Any]]:
    asked = {"role": "user", "content": PROMPT}
    messages = [asked, {"role": "assistant", "content": RESPONSES[0]}]
    ranked = {"query": PROMPT, "documents": list(RESPONSES), "top_n": 1}
    return {
        "/get_reward": {"prompt": [asked], "response": RESPONSES[0], "label": None},
        "/v1/score/evaluation": {"model": "reward", "messages": [RENDERED]},
        "/classify": {"model": "reward", "messages": messages},
        "/pooling": {"model": "reward", "messages": messages},
        "/v1/embeddings": {"model": "reward", "messages": messages},
        "/v1/chat/completions": {"model": "reward", "messages": messages},
        **dict.fromkeys(("/rerank", "/v1/rerank", "/v2/rerank"), ranked),
    }
