"""One length for all: with it the same conversation gives the same bits whatever else is in its pack.

A matrix product's kernel, and with it the order of its sums, is chosen by its shape. So every product gets one shape:
the backbone's by padding packs, the heads' by reading a fixed number of rows at a time. Attention is by segment and
does not see its neighbours; everything else is computed token by token.

R responses · P prompts · D hidden size
"""

from collections.abc import Callable

import numpy as np
import torch
from torch.nn.functional import pad

from app.model.armorm import HeadOutput
from app.packing import IndexArray

ROWS = 64
"""Responses that the heads read at a time."""

Read = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[HeadOutput, dict[str, torch.Tensor]]]
"""Features of responses and of prompts, and which prompt is whose, to what the heads say."""


def padded(token_ids: IndexArray, num_tokens: int) -> IndexArray:
    """Return token ids, or positions, with zeros after them up to one length."""
    return np.pad(token_ids, (0, num_tokens - len(token_ids)))


def read_in_rows(
    read: Read, features_RD: torch.Tensor, prompt_features_PD: torch.Tensor, prefix_of_response_R: torch.Tensor
) -> tuple[HeadOutput, dict[str, torch.Tensor]]:
    """Read the heads as `read` does, `ROWS` responses at a time, each with its own copy of its prompt's features."""
    num_responses = len(features_RD)
    missing = -num_responses % ROWS
    pairs = pad(features_RD, (0, 0, 0, missing)), pad(prompt_features_PD[prefix_of_response_R], (0, 0, 0, missing))
    rows = torch.arange(ROWS, device=features_RD.device)
    chunks = zip(*(torch.split(each, ROWS) for each in pairs), strict=True)
    parts = [read(responses, prompts, rows) for responses, prompts in chunks]
    first_P = _first_response_of_each(prefix_of_response_R, len(prompt_features_PD))

    def joined(pieces: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat(pieces)[:num_responses]

    def of(name: str) -> torch.Tensor | None:
        pieces = [getattr(output, name) for output, _ in parts]
        return None if pieces[0] is None else joined(pieces)

    gating_RK, coefficients_RK = of("gating_PK"), of("coefficients_PK")
    output = HeadOutput(
        rewards_RK=joined([one.rewards_RK for one, _ in parts]),
        gating_PK=None if gating_RK is None else gating_RK[first_P],
        coefficients_PK=None if coefficients_RK is None else coefficients_RK[first_P],
        scores_R=of("scores_R"),
    )
    return output, {name: joined([heads[name] for _, heads in parts]) for name in parts[0][1]}


def _first_response_of_each(prefix_of_response_R: torch.Tensor, num_prompts: int) -> torch.Tensor:
    order_R = torch.arange(len(prefix_of_response_R), device=prefix_of_response_R.device)
    first_P = torch.full((num_prompts,), len(order_R), device=order_R.device)
    return first_P.scatter_reduce(0, prefix_of_response_R, order_R, "amin")
