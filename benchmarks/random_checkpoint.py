"""A Llama checkpoint of any size with random weights, in the published ArmoRM layout: the speed of a real one."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModel

from app.model.armorm import ArmoHead, GatingNetwork

NUM_OBJECTIVES = 19


@dataclass(frozen=True, slots=True)
class LlamaSize:
    """The proportions are Llama 3's: four query heads to a key head, 3.5 times the width inside the MLP."""

    layers: int = 8
    width: int = 512
    vocabulary: int = 128_257
    head_width: int = 64

    def config(self) -> dict[str, object]:
        """Return the entries of config.json."""
        heads = max(1, self.width // self.head_width)
        return {
            "model_type": "llama",
            "architectures": ["LlamaForRewardModelWithGating"],
            "vocab_size": self.vocabulary,
            "hidden_size": self.width,
            "intermediate_size": self.width * 7 // 2,
            "num_hidden_layers": self.layers,
            "num_attention_heads": heads,
            "num_key_value_heads": max(1, heads // 4),
            "max_position_embeddings": 8192,
            "rope_theta": 500_000.0,
            "bos_token_id": None,
            "eos_token_id": None,
            "pad_token_id": self.vocabulary - 1,
            "num_objectives": NUM_OBJECTIVES,
            "gating_temperature": 10,
            "gating_hidden_dim": 1024,
            "gating_n_hidden": 3,
        }


def write_random_checkpoint(folder: Path, size: LlamaSize, dtype: torch.dtype = torch.float32) -> None:
    """Write config.json and model.safetensors; the same size gives the same weights."""
    config = size.config()
    entries = {key: value for key, value in config.items() if key not in ("model_type", "architectures")}
    torch.manual_seed(0)
    backbone = AutoModel.from_config(AutoConfig.for_model("llama", **entries))
    head = ArmoHead(size.width, NUM_OBJECTIVES, GatingNetwork(size.width, NUM_OBJECTIVES))
    tensors = {f"model.{name}": tensor.to(dtype) for name, tensor in backbone.state_dict().items()}
    tensors |= {name: tensor.to(dtype) for name, tensor in head.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
