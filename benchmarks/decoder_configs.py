"""Decoders that are measured, by their proportions: a tiny one, Llama 3's 8B, and what families have of their own."""

from collections.abc import Mapping
from typing import Any, Final

from transformers import AutoConfig, PretrainedConfig

TINY: Final[Mapping[str, Any]] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 8192,
}
FAMILIES: Final[Mapping[str, Mapping[str, Any]]] = {
    "llama": {},
    "mistral": {"sliding_window": 24},
    "qwen2": {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1},
    "qwen3": {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1},
    "gemma2": {"sliding_window": 24, "query_pre_attn_scalar": 40, "attn_logit_softcapping": 5.0},
}
"""Windows far shorter than a conversation, soft caps within reach of the logits, a query scale unlike the default."""
LLAMA3_8B: Final[Mapping[str, Any]] = {
    "vocab_size": 128_257,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 8192,
    "rope_theta": 500_000.0,
}


def config_of(family: str, sizes: Mapping[str, Any]) -> PretrainedConfig:
    """Return a decoder's config of these proportions."""
    no_tokens = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": sizes["vocab_size"] - 1}
    return AutoConfig.for_model(family, rms_norm_eps=1e-5, **sizes, **no_tokens)
