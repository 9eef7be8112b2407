"""The CUDA path's bookkeeping, on any machine: gathered keys and windows, with a plain stand-in for the kernel.

`varlen_attn` runs on CUDA only. What is ours are the keys that each query is given, their boundaries and the window;
a few lines of plain softmax attention read those as the kernel does: causal, aligned bottom-right.
"""

import pytest
import torch
from torch.nn.attention import varlen

from app.model import attention
from app.model.attention import AttentionLayout, AttentionRule, packed_attention
from app.packing import Segment

SEGMENTS = (Segment(0, 5), Segment(5, 9, 0, 5), Segment(9, 10, 0, 5), Segment(10, 16), Segment(16, 19, 10, 16))
NUM_TOKENS, QUERY_HEADS, KEY_HEADS, HEAD_SIZE = 19, 4, 2, 8


def plain_varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *boundaries: object,
    scale: float,
    window_size: tuple[int, int],
) -> torch.Tensor:
    query_starts, key_starts, longest_query, longest_key = boundaries
    output = torch.empty_like(query)
    lengths = []
    for index in range(len(query_starts) - 1):
        rows, columns = (slice(*starts[index : index + 2].tolist()) for starts in (query_starts, key_starts))
        keys, values = (states[columns].repeat_interleave(QUERY_HEADS // KEY_HEADS, dim=1) for states in (key, value))
        logits = torch.einsum("qne,sne->nqs", query[rows], keys) * scale
        num_queries, num_keys = logits.shape[1:]
        lengths.append((num_queries, num_keys))
        back = torch.arange(num_keys - num_queries, num_keys)[:, None] - torch.arange(num_keys)
        left, right = window_size
        seen = (back >= -right) & ((back <= left) if left >= 0 else True)
        output[rows] = torch.einsum("nqs,sne->qne", logits.masked_fill(~seen, -torch.inf).softmax(dim=-1), values)
    assert (longest_query, longest_key) == tuple(map(max, zip(*lengths, strict=True)))
    return output


@pytest.fixture
def states() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.randn(1, heads, NUM_TOKENS, HEAD_SIZE, generator=generator)
        for heads in (QUERY_HEADS, KEY_HEADS, KEY_HEADS)
    )


@pytest.mark.parametrize("window", [None, 1, 3, 6, 100])
def test_the_gathered_path_equals_the_path_by_segment(monkeypatch, states, window) -> None:
    monkeypatch.setattr(attention, "_varlen_attention", lambda **_: plain_varlen)
    layout = AttentionLayout(SEGMENTS, torch.device("cpu"))
    rule = AttentionRule(scaling=0.3, window=window, softcap=None)
    gathered = attention._gathered_attention(states, layout.gathered(), rule)
    options = {"layout": layout, "scaling": 0.3, "sliding_window": window}
    by_segment, _ = packed_attention(torch.nn.Identity(), *states, None, **options)
    torch.testing.assert_close(gathered, by_segment, rtol=1e-5, atol=1e-6)


def test_a_key_too_many_is_noticed(monkeypatch, states) -> None:
    monkeypatch.setattr(attention, "_varlen_attention", lambda **_: plain_varlen)
    leaking = (*SEGMENTS[:2], Segment(9, 10, 0, 6), *SEGMENTS[3:])
    layouts = [AttentionLayout(segments, torch.device("cpu")) for segments in (SEGMENTS, leaking)]
    rule = AttentionRule(scaling=0.3, window=None, softcap=None)
    right, wrong = (attention._gathered_attention(states, layout.gathered(), rule) for layout in layouts)
    assert (right[:, 9] - wrong[:, 9]).abs().max() > 1e-2
    torch.testing.assert_close(right[:, :9], wrong[:, :9])


def test_grouped_queries_are_asked_for_where_torch_wants_to_be_asked(monkeypatch) -> None:
    for has_option in (True, False):
        seen: dict[str, object] = {}

        def newer(*, enable_gqa: bool = False, seen: dict[str, object] = seen) -> None:
            seen["enable_gqa"] = enable_gqa

        def older(*, seen: dict[str, object] = seen) -> None:
            seen["called"] = True

        attention._varlen_attention.cache_clear()
        monkeypatch.setattr(varlen, "varlen_attn", newer if has_option else older)
        attention._varlen_attention()()
        assert seen == ({"enable_gqa": True} if has_option else {"called": True})
    attention._varlen_attention.cache_clear()
