"""The independent reference: one conversation at a time, transformers' own decoder, plain matrix products.

Written straight from the definition of the method and of the published layout. It imports nothing of the service,
packs nothing, shares nothing and has no fast path, so that where the two agree neither can be wrong alone.

    rewards = f(x⊕y) Wᵀ · gating = softmax(MLP(f(x)) / temperature) · logit_scale · score = Σ gating · (rewards M)
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModel, AutoTokenizer

Messages = Sequence[dict[str, str]]
Floats = NDArray[np.float64]

END_OF_TURN: Final = ("<|eot_id|>", "<|im_end|>", "<end_of_turn>")


@dataclass(frozen=True, slots=True)
class Reference:
    """What the reference says about one conversation; without a gating network only `rewards` is there."""

    token_ids: list[int]
    gating_index: int
    rewards: Floats
    gating: Floats | None = None
    coefficients: Floats | None = None
    score: float | None = None

    @property
    def contributions(self) -> Floats:
        assert self.coefficients is not None
        contributions: Floats = self.coefficients * self.rewards
        return contributions


class OneByOne:
    """A checkpoint folder read with transformers and safetensors alone, in one dtype, on one thread's worth of CPU."""

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float32, attention: str = "eager") -> None:
        self.folder = folder
        self.dtype = dtype
        self.config = json.loads((folder / "config.json").read_text())
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        tensors = read_tensors(folder)
        self.heads = {name: tensor for name, tensor in tensors.items() if not name.startswith("model.")}
        backbone = {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name not in self.heads}
        self.decoder = AutoModel.from_config(
            AutoConfig.from_pretrained(folder), attn_implementation=attention, dtype=dtype
        ).eval()
        self.decoder.load_state_dict(backbone, strict=True)

    def __call__(self, prompt: Messages, response: str) -> Reference:
        """Render the conversation with the tokenizer's own template, run it alone and read the heads off."""
        return self.read(*self.render(prompt, response))

    def render(self, prompt: Messages, response: str) -> tuple[list[int], int]:
        """Return the ids of the whole rendering and the index of the end of turn that closes the prompt."""
        conversation = [*prompt, {"role": "assistant", "content": response}]
        token_ids = self._template(conversation, add_generation_prompt=False)
        prompt_ids = self._template(prompt, add_generation_prompt=True)
        closing = {self.tokenizer.convert_tokens_to_ids(token) for token in END_OF_TURN} - {None}
        gating_index = max(index for index, token_id in enumerate(prompt_ids) if token_id in closing)
        assert token_ids[: gating_index + 1] == prompt_ids[: gating_index + 1]
        return token_ids, gating_index

    def read(self, token_ids: list[int], gating_index: int) -> Reference:
        """Run these ids alone and read the heads off the last token and the gating index."""
        hidden_TD = self.hidden_states(token_ids)
        features_D, prompt_features_D = hidden_TD[-1], hidden_TD[gating_index]
        if "regression_layer.weight" not in self.heads:
            return Reference(token_ids, gating_index, _numpy(self._head("score.weight") @ features_D))
        rewards_K = self._head("regression_layer.weight") @ features_D
        transform_KK = self._head("reward_transform_matrix")
        gating_K = self._gating(prompt_features_D)
        return Reference(
            token_ids,
            gating_index,
            rewards=_numpy(rewards_K),
            gating=_numpy(gating_K),
            coefficients=_numpy(transform_KK @ gating_K),
            score=float(gating_K @ (rewards_K @ transform_KK)),
        )

    @torch.no_grad()
    def hidden_states(self, token_ids: list[int]) -> torch.Tensor:
        """Return the output of the last layer after the final norm, (T, D), of one conversation."""
        hidden_TD: torch.Tensor = self.decoder(input_ids=torch.tensor([token_ids]), use_cache=False).last_hidden_state[
            0
        ]
        return hidden_TD

    def _gating(self, prompt_features_D: torch.Tensor) -> torch.Tensor:
        activations = prompt_features_D
        depth: int = self.config["gating_n_hidden"]
        for layer in range(depth + 1):
            weight, bias = (self._head(f"gating.layers.{layer}.{part}") for part in ("weight", "bias"))
            activations = weight @ activations + bias
            if layer < depth:
                activations = activations.clamp(min=0)
        weights_K = torch.softmax(activations / self.config["gating_temperature"], dim=-1)
        return weights_K * self._head("gating.logit_scale")

    def _head(self, name: str) -> torch.Tensor:
        return self.heads[name].to(self.dtype)

    def _template(self, messages: Messages, *, add_generation_prompt: bool) -> list[int]:
        text: str = self.tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=add_generation_prompt
        )
        token_ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return token_ids


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Read every tensor of a checkpoint, whatever its files."""
    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("model*.safetensors")):
        tensors |= load_file(path)
    return tensors


def render_llama3_by_hand(folder: Path, prompt: Messages, response: str) -> tuple[list[int], int]:
    """Lay out Llama 3 turns id by id, with content that can never become a special token, whatever it spells."""
    tokenizer = _plain_tokenizer(folder)
    special: dict[str, Any] = {
        name: tokenizer.token_to_id(name)
        for name in ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    }

    def plain(text: str) -> list[int]:
        token_ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return token_ids

    token_ids = [special["<|begin_of_text|>"]]
    gating_index = 0
    for message in [*prompt, {"role": "assistant", "content": response}]:
        gating_index = len(token_ids) - 1
        token_ids += [special["<|start_header_id|>"], *plain(message["role"]), special["<|end_header_id|>"]]
        token_ids += [*plain("\n\n" + message["content"].strip()), special["<|eot_id|>"]]
    return token_ids, gating_index


@cache
def _plain_tokenizer(folder: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    return tokenizer


def _numpy(values: torch.Tensor) -> Floats:
    array: Floats = values.detach().double().numpy()
    return array
