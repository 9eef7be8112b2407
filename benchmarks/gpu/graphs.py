"""An experiment: eager against compiled layers against a CUDA graph, on packs brought up to one of a few lengths.

A graph replays kernels with the addresses and sizes that they were captured with, so everything that differs from
pack to pack must be a tensor of fixed length: token ids, positions, the indices of gathered keys and the boundaries of
segments. What is missing of a length is one more segment, and what is missing of the boundaries are empty ones.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import torch
from torch.nn.functional import pad
from transformers import AttentionInterface

from app.model.attention import AttentionLayout, packed_attention
from app.model.batch_invariance import padded
from app.packing import Pack, Segment
from benchmarks.gpu.clock import median_seconds
from benchmarks.gpu.rows import Row
from benchmarks.gpu.speed import Scene

BUCKETS: Final = (64, 128, 256, 512, 1024, 2048)
TINY_BUCKETS: Final = (64,)
MOST_SEGMENTS: Final = 64
KEYS_A_TOKEN: Final = 4
"""Gathered keys that a bucket has room for: a prompt counts once for each of its responses."""
LIMIT: Final = 0.05
"""Of the hidden states' spread: in half precision a compiled layer rounds elsewhere."""
UNCOMPILED: Final = "armoserve_packed_uncompiled"
NEXT: Final = "not in the engine: to be shipped only where this row, on a GPU, says that it wins and is equal"


def measure_graphs(scene: Scene) -> Iterator[Row]:
    """Yield milliseconds of a backbone's pass for every bucket, all ways, each seen to be equal to the eager one."""
    with _compiled_layers(scene):
        for bucket in TINY_BUCKETS if scene.is_tiny else BUCKETS:
            if scene.deadline.has_passed():
                return
            yield _bucket(scene, bucket)


@torch.inference_mode()
def _bucket(scene: Scene, bucket: int) -> Row:
    backbone = Bucketed(scene, scene.pack(bucket - bucket // 8), bucket)
    expected = backbone.eager().float()
    ways: dict[str, Callable[[], torch.Tensor]] = {"eager": backbone.eager, "compiled": backbone.compiled}
    if scene.device.type == "cuda":
        ways["graph"] = backbone.captured(backbone.eager)
        ways["compiled graph"] = backbone.captured(backbone.compiled)
    spread = float(expected.std())
    largest = max(float((way().float() - expected).abs().max()) / spread for way in ways.values())
    taken = {name: median_seconds(scene.device, way, 3 * scene.rounds) for name, way in ways.items()}
    best = min(taken, key=lambda name: taken[name])
    words = ", ".join(f"{name} {1000 * seconds:.2f} ms" for name, seconds in taken.items())
    return Row(
        f"compiled or captured, {bucket} tokens",
        "the backbone's pass over one bucket; outputs equal within 5% of their spread",
        "≤ eager",
        f"{words}; {best} is fastest, {taken['eager'] / taken[best]:.2f}×",
        is_met=largest <= LIMIT,
        next=NEXT,
        figures={**{f"{name}_seconds".replace(" ", "_"): each for name, each in taken.items()}, "difference": largest},
    )


class Bucketed:
    """One pack in a bucket's static tensors, and the ways to run the backbone over them."""

    def __init__(self, scene: Scene, pack: Pack, bucket: int) -> None:
        self._backbone = scene.model.backbone
        device = scene.device
        segments = (*pack.segments, Segment(pack.num_tokens, bucket))
        self._segments = segments
        self._layout = AttentionLayout(segments, device)
        self._token_ids_T, self._position_ids_T = (
            torch.from_numpy(padded(array, bucket)).to(device) for array in (pack.token_ids_T, pack.position_ids_T)
        )
        keys = self._layout.gathered()
        keys.indices = pad(keys.indices, (0, KEYS_A_TOKEN * bucket - len(keys.indices)))
        keys.query_starts, keys.key_starts = (
            torch.cat([starts, starts[-1:].expand(MOST_SEGMENTS + 1 - len(starts))])
            for starts in (keys.query_starts, keys.key_starts)
        )
        keys.longest_query = keys.longest_key = bucket

    def eager(self) -> torch.Tensor:
        """Return the hidden states (T, D)."""
        with torch.compiler.set_stance("force_eager"):
            return self.compiled()

    def compiled(self) -> torch.Tensor:
        """Return the same from compiled layers."""
        hidden_TD: torch.Tensor = self._backbone(self._token_ids_T, self._position_ids_T, self._segments, self._layout)
        return hidden_TD

    def captured(self, way: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        """Return what replays one of them as a graph."""
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # a first call may allocate and compile, which a capture must not
            way()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            hidden_TD = way()

        def replay() -> torch.Tensor:
            graph.replay()
            return hidden_TD

        return replay


@contextmanager
def _compiled_layers(scene: Scene) -> Iterator[None]:
    """Compile every layer but for its attention: what is left is the same code for all layers, so compiled once."""
    decoder = scene.model.backbone.decoder
    packed = decoder.config._attn_implementation  # noqa: SLF001 - transformers has no other way to ask
    AttentionInterface.register(UNCOMPILED, torch.compiler.disable(packed_attention))  # type: ignore[no-untyped-call]
    decoder.set_attn_implementation(UNCOMPILED)
    for layer in decoder.layers:
        layer.compile(dynamic=False, backend="eager" if scene.is_tiny else "inductor")
    try:
        yield
    finally:
        decoder.set_attn_implementation(packed)
        for layer in decoder.layers:
            layer._compiled_call_impl = None  # noqa: SLF001 - torch has no other way back
