"""Attention over a pack: exact, without padding and without a T × T mask.

    [ prefix A | response A1 | response A2 ]        A1 sees prefix A and itself; A2 sees prefix A and itself

Registered with the transformers attention interface, so any decoder that goes through it can be packed. Each
segment attends to its own keys and its prefix's, causal and bottom-right aligned; those that are cached come before
those of the pack. Half precision on CUDA takes one `varlen_attn` over gathered keys; everything else one
scaled-dot-product call per segment. Knows no weights.

T packed tokens · S keys of one segment · Q queries of one segment · N query heads · M key heads · E head size
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import accumulate
from typing import Any, Final, TypeAlias, cast

import numpy as np
import torch
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface

from app.model.prefix_cache import RecalledPrefix, States
from app.model.staging import to_device
from app.packing import IndexArray, Segment

Span: TypeAlias = tuple[int, int]
CachedStates: TypeAlias = Callable[[RecalledPrefix], list[torch.Tensor]]
"""The keys, or the values, of one layer that a cached prefix brings, in the order of their tokens."""

ATTENTION_NAME: Final = "armoserve_packed"


class AttentionLayout:
    """Which packed tokens see which, on one device: built once per forward, read by every layer."""

    def __init__(
        self,
        segments: tuple[Segment, ...],
        device: torch.device,
        keep: Sequence[Span] = (),
        *,
        is_split_by_company: bool = True,
    ) -> None:
        """`keep` are the runs of the pack whose keys and values are to be kept, to be cached.

        `is_split_by_company` lets a kernel cut a segment's keys as the whole pack suggests, which is faster but shows
        in the last bits. Tokens after the last segment are padding: they see nothing, and nothing sees them.
        """
        self.segments = segments
        self.device = device
        self._is_split_by_company = is_split_by_company
        self.kept: list[list[States]] = [[] for _ in keep]
        """Per run to keep, its states per layer, as views."""
        self._keep = keep
        self._spans = [(segment.start, segment.stop) for segment in segments]
        self._masks: dict[tuple[int, int, int | None], torch.Tensor] = {}
        self._gathered: GatheredKeys | None = None

    def own(self, states_1MTE: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Cut states into those of each segment: views, whose gradients are joined at once.

        The gradient of a slice would be as large as the whole, zero but for the slice, for every segment.
        """
        num_tokens = self.segments[-1].stop
        return torch.split(states_1MTE[:, :, :num_tokens], [stop - start for start, stop in self._spans], dim=2)

    def visible(self, states_1MTE: torch.Tensor, cached: CachedStates) -> list[torch.Tensor]:
        """Return the states that each segment sees: what is cached for it, its prefix's in the pack, and its own."""
        pieces = dict(zip(self._spans, self.own(states_1MTE), strict=True))
        seen = list(pieces.values())
        for number, segment in enumerate(self.segments):
            before = [] if segment.cached is None else cached(cast("RecalledPrefix", segment.cached))
            if segment.prefix_start < segment.prefix_stop:
                span = (segment.prefix_start, segment.prefix_stop)
                before = [*before, pieces[span] if span in pieces else states_1MTE[:, :, slice(*span)]]
            if before:
                seen[number] = torch.cat((*before, pieces[self._spans[number]]), dim=2)
        return seen

    def keep(self, key_1MTE: torch.Tensor, value_1MTE: torch.Tensor) -> None:
        """Keep one layer's states of the runs that are to be kept; called once a layer, in their order."""
        for kept, (start, stop) in zip(self.kept, self._keep, strict=True):
            kept.append((key_1MTE[:, :, start:stop].clone(), value_1MTE[:, :, start:stop].clone()))

    def mask_QS(self, segment: Segment, window: int | None) -> torch.Tensor:
        """Return the boolean mask of one segment: True where a query sees a key."""
        shape = (segment.num_tokens, segment.num_prefix_tokens, window)
        if shape not in self._masks:
            num_keys = segment.num_prefix_tokens + segment.num_tokens
            key_S = torch.arange(num_keys, device=self.device)
            query_Q1 = torch.arange(segment.num_prefix_tokens, num_keys, device=self.device)[:, None]
            visible_QS = key_S <= query_Q1
            if window is not None:
                visible_QS &= query_Q1 - key_S < window
            self._masks[shape] = visible_QS
        return self._masks[shape]

    def gathered(self) -> "GatheredKeys":
        if self._gathered is None:
            self._gathered = GatheredKeys(self.segments, self.device, is_split_by_company=self._is_split_by_company)
        return self._gathered


class GatheredKeys:
    """The segments as `varlen_attn` wants them: key indices (cached, prefix, own) and cumulative lengths.

    Indices count through what is cached, each cached prefix once, and on through the pack.
    """

    def __init__(
        self, segments: tuple[Segment, ...], device: torch.device, *, is_split_by_company: bool = True
    ) -> None:
        cached = [cast("RecalledPrefix", segment.cached) for segment in segments if segment.cached is not None]
        self.cached = list({id(one): one for one in cached}.values())
        ends = list(accumulate((one.num_tokens for one in self.cached), initial=0))
        first = {id(one): start for one, start in zip(self.cached, ends, strict=False)}
        spans = [
            span
            for s in segments
            for span in (
                _span(first.get(id(s.cached), 0), s.num_cached_tokens),
                _span(ends[-1] + s.prefix_start, s.prefix_stop - s.prefix_start),
                _span(ends[-1] + s.start, s.num_tokens),
            )
        ]
        query_lengths = [segment.num_tokens for segment in segments]
        key_lengths = [segment.num_prefix_tokens + segment.num_tokens for segment in segments]
        arrays = [np.concatenate(spans), np.cumsum([0, *query_lengths]), np.cumsum([0, *key_lengths])]
        self.indices, query_starts, key_starts = to_device(arrays, device)
        self.query_starts, self.key_starts = query_starts.to(torch.int32), key_starts.to(torch.int32)
        self.num_queries = segments[-1].stop
        self.longest_query, self.longest_key = max(query_lengths), max(key_lengths)
        self.one_split = not is_split_by_company
        if self.one_split:  # told of single queries only, the kernel takes another way, and may split keys on it
            self.longest_query = max(2, self.longest_query)

    def gather(self, states_1MTE: torch.Tensor, cached: CachedStates) -> torch.Tensor:
        """Return the states that each segment sees, one after the other, (S, M, E)."""
        pieces = [piece for one in self.cached for piece in cached(one)]
        everything_1MTE = torch.cat((*pieces, states_1MTE), dim=2) if pieces else states_1MTE
        return everything_1MTE[0].transpose(0, 1)[self.indices]


@dataclass(frozen=True, slots=True)
class AttentionRule:
    """What a layer asks for beside its queries, keys and values."""

    scaling: float
    window: int | None
    """How many tokens back a token sees, itself included; None sees all."""
    softcap: float | None

    @staticmethod
    def of(options: Mapping[str, Any], head_size: int) -> "AttentionRule":
        scaling = options.get("scaling") or head_size**-0.5
        return AttentionRule(scaling, options.get("sliding_window"), options.get("softcap"))


def packed_attention(
    module: torch.nn.Module,
    query_1NTE: torch.Tensor,
    key_1MTE: torch.Tensor,
    value_1MTE: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within a pack; the signature is that of `transformers.AttentionInterface`.

    Reads `layout` (AttentionLayout), `scaling`, `sliding_window` and `softcap` from the options.

    Returns:
        The output of shape (1, T, N, E), and None for the weights.

    Raises:
        ValueError: the model asks for something that packs do not support (a mask, dropout, attention sinks).
    """
    if attention_mask is not None or options.get("dropout") or options.get("s_aux") is not None:
        raise ValueError("packed attention takes no mask, no dropout and no attention sinks")
    layout: AttentionLayout = options["layout"]
    rule = AttentionRule.of(options, head_size=query_1NTE.shape[-1])
    # In training, rotation leaves queries and keys in float32.
    if query_1NTE.is_cuda and torch.is_autocast_enabled("cuda"):
        half_type = torch.get_autocast_dtype("cuda")
        query_1NTE, key_1MTE, value_1MTE = (each.to(half_type) for each in (query_1NTE, key_1MTE, value_1MTE))
    layer: int = getattr(module, "layer_idx", 0)
    layout.keep(key_1MTE, value_1MTE)
    num_padding = query_1NTE.shape[2] - layout.segments[-1].stop
    half = query_1NTE.dtype in (torch.bfloat16, torch.float16)
    if query_1NTE.is_cuda and half and rule.softcap is None:
        output_1TNE = _gathered_attention((query_1NTE, key_1MTE, value_1MTE), layout.gathered(), rule, layer)
        return _padded(output_1TNE, num_padding), None
    keys = layout.visible(key_1MTE, lambda cached: cached.keys(layer))
    values = layout.visible(value_1MTE, lambda cached: cached.values(layer))
    by_segment = zip(layout.own(query_1NTE), keys, values, layout.segments, strict=True)
    outputs = [
        _segment_attention(query_1NQE, key_1MSE, value_1MSE, segment, layout, rule)
        for query_1NQE, key_1MSE, value_1MSE, segment in by_segment
    ]
    return _padded(torch.cat(outputs, dim=2).transpose(1, 2), num_padding), None


def register() -> None:
    """Make `ATTENTION_NAME` known to transformers; doing so again changes nothing."""
    AttentionInterface.register(ATTENTION_NAME, packed_attention)


def _segment_attention(
    query_1NQE: torch.Tensor,
    key_1MSE: torch.Tensor,
    value_1MSE: torch.Tensor,
    segment: Segment,
    layout: AttentionLayout,
    rule: AttentionRule,
) -> torch.Tensor:
    if rule.softcap is not None:
        return _soft_capped(query_1NQE, key_1MSE, value_1MSE, layout.mask_QS(segment, rule.window), rule)
    sees_all_before = rule.window is None or rule.window >= segment.num_tokens
    plain = segment.num_prefix_tokens == 0 and sees_all_before
    return scaled_dot_product_attention(
        query_1NQE,
        key_1MSE,
        value_1MSE,
        attn_mask=None if plain else layout.mask_QS(segment, rule.window),
        is_causal=plain,
        scale=rule.scaling,
        enable_gqa=True,
    )


def _soft_capped(
    query_1NQE: torch.Tensor,
    key_1MSE: torch.Tensor,
    value_1MSE: torch.Tensor,
    mask_QS: torch.Tensor,
    rule: AttentionRule,
) -> torch.Tensor:
    """Attend with logits bounded by `softcap * tanh(logits / softcap)`, which no fused kernel offers (Gemma 2)."""
    softcap = cast("float", rule.softcap)
    groups = query_1NQE.shape[1] // key_1MSE.shape[1]
    key_1NSE, value_1NSE = (states.repeat_interleave(groups, dim=1) for states in (key_1MSE, value_1MSE))
    logits_1NQS = torch.tanh(query_1NQE @ key_1NSE.transpose(2, 3) * (rule.scaling / softcap)) * softcap
    weights_1NQS = logits_1NQS.masked_fill(~mask_QS, -torch.inf).softmax(dim=-1, dtype=torch.float32)
    return weights_1NQS.to(query_1NQE.dtype) @ value_1NSE


def _gathered_attention(
    states: tuple[torch.Tensor, torch.Tensor, torch.Tensor], keys: GatheredKeys, rule: AttentionRule, layer: int = 0
) -> torch.Tensor:
    query_1NTE, key_1MTE, value_1MTE = states
    output_TNE: torch.Tensor = _varlen_attention(one_split=keys.one_split)(
        query_1NTE[0, :, : keys.num_queries].transpose(0, 1).contiguous(),
        keys.gather(key_1MTE, lambda cached: cached.keys(layer)),
        keys.gather(value_1MTE, lambda cached: cached.values(layer)),
        keys.query_starts,
        keys.key_starts,
        keys.longest_query,
        keys.longest_key,
        scale=rule.scaling,
        window_size=(-1 if rule.window is None else rule.window - 1, 0),
    )
    return output_TNE[None]


@cache
def _varlen_attention(*, one_split: bool = False) -> Callable[..., Any]:
    """Return `varlen_attn` with grouped queries allowed, and keys never split if so wanted.

    Before torch 2.12 neither could be asked for, and both were so but for packs of single queries.
    """
    from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415 - built for CUDA only

    wanted: dict[str, Any] = {"enable_gqa": True} | ({"num_splits": 1} if one_split else {})
    known = inspect.signature(varlen_attn).parameters
    return partial(varlen_attn, **{name: value for name, value in wanted.items() if name in known})


def _padded(output_1TNE: torch.Tensor, num_padding: int) -> torch.Tensor:
    return pad(output_1TNE, (0, 0, 0, 0, 0, num_padding)) if num_padding else output_1TNE


def _span(start: int, length: int) -> IndexArray:
    return np.arange(start, start + length)
