"""A checkpoint that every peer can load: a sequence classifier with one label, random weights and a real tokenizer."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from benchmarks.random_checkpoint import LlamaSize

TOKENIZER: Final = Path(__file__).resolve().parents[2] / "weights" / "default"
VOCABULARY: Final = 10_240
PAD_TOKEN, PAD_ID = "<|endoftext|>", 0
"""In no conversation: transformers reads the score at the last token that is no padding, and turns end in others."""
SCORE_SPREAD: Final = 0.2
"""Standard deviation of the head's weights, enough that scores of different texts differ in their first digits."""


@dataclass(frozen=True, slots=True)
class ClassifierSize:
    """Layers, and their width; the proportions are Llama 3's."""

    layers: int = 2
    width: int = 512

    def __str__(self) -> str:
        return f"{self.layers} layers, {self.width} wide"


def write_classifier(folder: Path, size: ClassifierSize) -> Path:
    """Write weights, config.json, tokenizer and chat template; the same size gives the same weights."""
    folder.mkdir(exist_ok=True)
    llama = LlamaSize(layers=size.layers, width=size.width, vocabulary=VOCABULARY).config()
    known = {name: value for name, value in llama.items() if "objectives" not in name and "gating" not in name}
    entries = {name: value for name, value in known.items() if name not in ("model_type", "architectures")}
    config = AutoConfig.for_model("llama", **(entries | {"pad_token_id": PAD_ID, "num_labels": 1}))
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    torch.nn.init.normal_(model.score.weight, std=SCORE_SPREAD)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "chat_template.jinja"):
        shutil.copy(TOKENIZER / name, folder / name)
    tokenizer = json.loads((TOKENIZER / "tokenizer_config.json").read_text(encoding="utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer | {"pad_token": PAD_TOKEN}), encoding="utf-8")
    return folder
