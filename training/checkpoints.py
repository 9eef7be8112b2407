"""The backbone as an artifact: built from the recipe's architecture, its parameters saved and restored."""

from typing import Any

import torch
from transformers import LlamaConfig

from app.model.backbone import Backbone, build_backbone
from training.artifacts import Workspace
from training.configs import ArchitectureConfig

ARCHITECTURE = "LlamaForRewardModelWithGating"


def backbone_config(architecture: ArchitectureConfig, vocabulary_size: int, **extra: Any) -> LlamaConfig:
    """Return the config of a Llama backbone; `extra` are the keys of the ArmoRM heads and of the tokenizer."""
    return LlamaConfig(
        architectures=[ARCHITECTURE],
        vocab_size=vocabulary_size,
        hidden_size=architecture.hidden_size,
        num_hidden_layers=architecture.layers,
        num_attention_heads=architecture.attention_heads,
        num_key_value_heads=architecture.attention_heads,
        intermediate_size=architecture.intermediate_size,
        max_position_embeddings=architecture.max_position_embeddings,
        initializer_range=architecture.hidden_size**-0.5,  # keeps the size of activations; Llama's 0.02 is for 4096
        dtype=architecture.dtype,
        use_cache=False,
        **extra,
    )


def new_backbone(architecture: ArchitectureConfig, vocabulary_size: int, seed: int) -> Backbone:
    """Build a backbone with random weights, the same ones for the same seed."""
    torch.manual_seed(seed)
    return build_backbone(backbone_config(architecture, vocabulary_size), torch.float32)


def restore_backbone(workspace: Workspace, name: str, architecture: ArchitectureConfig) -> Backbone:
    """Read a backbone back in float32.

    Raises:
        MissingArtifact: no stage has written it.
    """
    state = workspace.load_state(name)
    backbone = new_backbone(architecture, state["embed_tokens.weight"].shape[0], seed=0)
    backbone.decoder.load_state_dict({key: tensor.float() for key, tensor in state.items()})
    return backbone


def save_backbone(workspace: Workspace, name: str, backbone: Backbone, dtype: torch.dtype = torch.float32) -> None:
    """Write a backbone's parameters, rounded to a type."""
    workspace.save_state(name, {key: tensor.to(dtype) for key, tensor in backbone.decoder.state_dict().items()})
