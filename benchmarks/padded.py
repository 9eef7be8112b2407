"""What is measured against: transformers' own decoder over right-padded batches with an attention mask.

This is how reward models are usually served. It is given every advantage that costs no thought: the same dtype,
fused attention, the hidden states of the backbone only and the very same heads.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel

from app.domain import TokenizedConversation
from app.model.armorm import ArmoHead


class PaddedModel:
    """A checkpoint in the published layout, run batch by batch."""

    def __init__(self, folder: Path, head: ArmoHead, dtype: torch.dtype) -> None:
        config = AutoConfig.from_pretrained(folder)
        self.decoder = AutoModel.from_config(config, attn_implementation="sdpa", dtype=dtype).eval()
        tensors = load_file(folder / "model.safetensors")
        backbone = {name: tensor for name, tensor in tensors.items() if name.startswith("model.")}
        self.decoder.load_state_dict({name.removeprefix("model."): tensor for name, tensor in backbone.items()})
        self.head = head

    def scores(self, conversations: Sequence[TokenizedConversation], batch_size: int) -> torch.Tensor:
        """Return one score per conversation, (R,), computed `batch_size` at a time in the order given."""
        batches = [conversations[start : start + batch_size] for start in range(0, len(conversations), batch_size)]
        return torch.cat([self._batch(batch) for batch in batches])

    @torch.inference_mode()
    def _batch(self, conversations: Sequence[TokenizedConversation]) -> torch.Tensor:
        rows = torch.arange(len(conversations))
        lengths_R = torch.tensor([conversation.num_tokens for conversation in conversations])
        token_ids_RT = torch.zeros(len(conversations), int(lengths_R.max()), dtype=torch.int64)
        for row, conversation in enumerate(conversations):
            token_ids_RT[row, : conversation.num_tokens] = torch.tensor(
                conversation.prefix_ids + conversation.response_ids
            )
        attention_mask_RT = (torch.arange(token_ids_RT.shape[1]) < lengths_R[:, None]).long()
        output = self.decoder(input_ids=token_ids_RT, attention_mask=attention_mask_RT, use_cache=False)
        hidden_RTD = output.last_hidden_state
        gating_indices_R = torch.tensor([conversation.gating_index for conversation in conversations])
        readout = self.head.readout(hidden_RTD[rows, lengths_R - 1], hidden_RTD[rows, gating_indices_R], rows)
        return readout.scores_R if readout.scores_R is not None else readout.rewards_RK[:, 0]


def padded_tokens(conversations: Sequence[TokenizedConversation], batch_size: int) -> int:
    """Return how many tokens padded batches compute."""
    lengths = [conversation.num_tokens for conversation in conversations]
    batches = [lengths[start : start + batch_size] for start in range(0, len(lengths), batch_size)]
    return sum(len(batch) * max(batch) for batch in batches)
