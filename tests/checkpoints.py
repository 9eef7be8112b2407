"""Tiny random checkpoints in every layout the service loads, written from the published layouts and not from its code.

The weights are random but never degenerate: scores, rewards and gating differ measurably from text to text, the
reward transform has negative entries and the logit scale is not one. A fault anywhere shows in a number.
"""

import hashlib
import itertools
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModel

from benchmarks.decoder_configs import FAMILIES, TINY
from tests.small_tokenizers import write_small_tokenizer

Tensors = dict[str, torch.Tensor]

ARMORM_OBJECTIVES: Final = 19
INTENSITY_HEADS: Final = {"helpfulness": 5, "honesty": 3, "harmless": 2}


def backbone_config(family: str, vocabulary: int, **changes: Any) -> dict[str, Any]:
    """Return the entries of a config.json that describe a tiny decoder."""
    config = {
        "model_type": family,
        **TINY,
        "vocab_size": vocabulary,
        "rms_norm_eps": 1e-5,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": vocabulary - 1,
    }
    return config | dict(FAMILIES[family]) | changes


def random_backbone(config: Mapping[str, Any], seed: int) -> Tensors:
    """Return a decoder's tensors under `model.`, each scaled so that every layer matters and none saturates."""
    entries = {key: value for key, value in config.items() if key not in ("model_type", "architectures", "auto_map")}
    with torch.device("meta"):
        decoder = AutoModel.from_config(AutoConfig.for_model(config["model_type"], **entries))
    generator = torch.Generator().manual_seed(seed)
    norm_center = 0.0 if config["model_type"] == "gemma2" else 1.0
    tensors = {}
    for name, parameter in decoder.state_dict().items():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("norm.weight"):
            noise = norm_center + 0.2 * noise
        elif name.endswith("bias"):
            noise = 0.3 * noise
        elif "embed" not in name:
            noise = noise * parameter.shape[-1] ** -0.5
        tensors[f"model.{name}"] = noise
    return tensors


def armorm_heads(hidden_size: int, hidden_dim: int, n_hidden: int, seed: int) -> Tensors:
    """Return the regression layer, the reward transform and the gating network in the published layout."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * scale

    sizes = [hidden_size, *[hidden_dim] * n_hidden, ARMORM_OBJECTIVES]
    transform_KK = torch.eye(ARMORM_OBJECTIVES)
    transform_KK[4] -= torch.rand(ARMORM_OBJECTIVES, generator=generator)
    tensors = {
        "regression_layer.weight": normal(ARMORM_OBJECTIVES, hidden_size, scale=hidden_size**-0.5),
        "reward_transform_matrix": transform_KK,
        "gating.logit_scale": torch.tensor([1.375]),
    }
    for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        gain = 20.0 if layer == n_hidden else 1.4
        tensors[f"gating.layers.{layer}.weight"] = normal(fan_out, fan_in, scale=gain * fan_in**-0.5)
        tensors[f"gating.layers.{layer}.bias"] = normal(fan_out, scale=0.2)
    return tensors


def save_tensors(folder: Path, tensors: Mapping[str, torch.Tensor], shards: int = 1) -> None:
    """Write `model.safetensors`, or that many shards with their index."""
    if shards == 1:
        save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = list(tensors)
    weight_map = {}
    for shard in range(shards):
        file_name = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: tensors[name] for name in names[shard::shards]}
        save_file(part, folder / file_name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file_name)
    total_size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    index = {"metadata": {"total_size": total_size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def write_tokenizer(folder: Path, tokenizer: Path | str) -> int:
    """Copy the tokenizer of a folder, or make a small one with the named template; return the number of tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(tokenizer, str):
        return write_small_tokenizer(folder, "chatml" if tokenizer == "chatml" else "llama3")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(tokenizer / name, folder / name)
    document = json.loads((folder / "tokenizer.json").read_text())
    return max(entry["id"] for entry in document["added_tokens"]) + 1


def write_armorm(
    folder: Path,
    tokenizer: Path | str = "llama3",
    *,
    shards: int = 1,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write a checkpoint in the layout of RLHFlow/ArmoRM-Llama3-8B-v0.1, with its custom code that must never run."""
    vocabulary = write_tokenizer(folder, tokenizer)
    config = backbone_config("llama", vocabulary, rope_theta=500000.0, rope_scaling=None, torch_dtype="bfloat16") | {
        "architectures": ["LlamaForRewardModelWithGating"],
        "auto_map": {"AutoModelForSequenceClassification": "modeling_custom.LlamaForRewardModelWithGating"},
        "id2label": {str(index): f"LABEL_{index}" for index in range(ARMORM_OBJECTIVES)},
        "num_objectives": ARMORM_OBJECTIVES,
        "gating_temperature": 10,
        "gating_hidden_dim": 48,
        "gating_n_hidden": 3,
    }
    tensors = random_backbone(config, seed) | armorm_heads(config["hidden_size"], 48, 3, seed + 1)
    save_tensors(folder, {name: tensor.to(dtype) for name, tensor in tensors.items()}, shards)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling_custom.py").write_text("raise SystemExit('remote code was run')\n")
    return folder


def write_classifier(
    folder: Path, family: str = "llama", num_labels: int = 1, tokenizer: Path | str = "llama3", *, seed: int = 0
) -> Path:
    """Write a `*ForSequenceClassification` checkpoint with K = num_labels."""
    vocabulary = write_tokenizer(folder, tokenizer)
    labels = {str(index): f"LABEL_{index}" for index in range(num_labels)}
    config = backbone_config(family, vocabulary) | {
        "architectures": [f"{family.capitalize()}ForSequenceClassification"],
        "id2label": labels,
        "label2id": {label: int(index) for index, label in labels.items()},
    }
    generator = torch.Generator().manual_seed(seed + 1)
    tensors = random_backbone(config, seed)
    tensors["score.weight"] = torch.randn(num_labels, config["hidden_size"], generator=generator) / 8
    save_tensors(folder, tensors)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_moslim_heads(
    path: Path, hidden_size: int = 64, seed: int = 7, classes: Mapping[str, int] = INTENSITY_HEADS
) -> Path:
    """Write intensity heads with the running statistics of their reward mapping."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, count in classes.items():
        tensors[f"{name}.weight"] = torch.randn(count, hidden_size, generator=generator) / 4
        tensors[f"{name}.bias"] = torch.randn(count, generator=generator) / 4
        tensors[f"{name}.mapping_mean"] = torch.full((count,), 1 / count)
        tensors[f"{name}.mapping_std"] = 0.1 + torch.rand(count, generator=generator) / 4
    save_file(tensors, path)
    return path


def write_own_folder(folder: Path, tokenizer: Path | str = "llama3", *, seed: int = 0) -> Path:
    """Write a folder as training exports it: the published layout, MOSLIM heads and a manifest with digests."""
    write_armorm(folder, tokenizer, seed=seed)
    write_moslim_heads(folder / "moslim.safetensors")
    (folder / "modeling_custom.py").unlink()
    objectives = [
        {
            "name": f"objective-{index}",
            "description": f"number {index}",
            "source": "made up",
            "native": None,
            "quantiles": [],
        }
        for index in range(ARMORM_OBJECTIVES)
    ]
    objectives[0]["native"] = {"slope": 5.0, "intercept": -0.5}
    manifest = {
        "format": 1,
        "name": "tiny-random",
        "objectives": objectives,
        "verbosity_objective": "objective-4",
        "gating": {"beta": 97.5, "token": "end_of_turn"},
        "composites": {"both": {"objective-0": 0.5, "objective-1": 0.5}},
        "template": {"kind": "chat", "frozen_date": None},
        "moslim": {"heads": [{"name": name, "classes": classes} for name, classes in INTENSITY_HEADS.items()]},
        "score_quantiles": [],
        "provenance": {"recipe": "random"},
        "sha256": {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.iterdir())
            if path.is_file()
        },
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
