"""A backbone without storage: matrices have none, computed buffers have, and other threads notice nothing."""

from threading import Event, Thread

import pytest
import torch
from torch import nn
from transformers import LlamaConfig

from app.model import backbone as backbones

CONFIG = LlamaConfig(
    vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, head_dim=8
)


def test_matrices_have_no_storage_and_computed_buffers_do() -> None:
    empty = backbones.empty_backbone(CONFIG, torch.float32)
    assert all(parameter.is_meta for parameter in empty.parameters() if parameter.dim() > 1)
    assert not any(buffer.is_meta for buffer in empty.buffers())


def test_modules_built_meanwhile_in_other_threads_keep_their_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, may_end = Event(), Event()
    decoder_of = backbones._decoder

    def held_decoder(config: LlamaConfig, dtype: torch.dtype) -> nn.Module:
        begun.set()
        assert may_end.wait(20)
        return decoder_of(config, dtype)

    monkeypatch.setattr(backbones, "_decoder", held_decoder)
    loading = Thread(target=backbones.empty_backbone, args=(CONFIG, torch.float32), daemon=True)
    loading.start()
    assert begun.wait(20)
    assert not nn.Linear(4, 4).weight.is_meta
    may_end.set()
    loading.join(20)
    assert not nn.Linear(4, 4).weight.is_meta
