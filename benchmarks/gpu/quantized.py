"""Fewer bits beside bfloat16: the very same random weights as int8, nf4 and fp8, their memory and their speed.

What a library, a kernel or this device does not do has a row that says why, and no figure.
"""

from collections.abc import Iterator
from functools import partial
from typing import Final

import numpy as np
import torch

from app.errors import InvalidSetting, InvalidWeights
from app.model.backbone import empty_backbone
from app.model.quantization import LINEAR_KINDS, check_quantization, num_bytes, quantize_linears
from app.model.reward_model import RewardModel
from benchmarks.gpu.clock import side_by_side
from benchmarks.gpu.rows import Row
from benchmarks.gpu.speed import Scene

HOW: Final = "weights' memory and tokens/s beside bfloat16 in alternating rounds; the same weights"
UNAVAILABLE: Final = (InvalidSetting, InvalidWeights, ImportError, AttributeError, NotImplementedError, RuntimeError)
"""What a missing library, kernel or GPU ends in: torch's operators raise three kinds of their own."""


def measure_quantized(scene: Scene) -> Iterator[Row]:
    """Yield a row for each kind, in packs of the largest size and in small ones."""
    for kind in LINEAR_KINDS:
        goal = f"{scene.name}, random weights: {kind}"
        if scene.deadline.has_passed():
            yield Row(goal, HOW, "side by side", "not measured", next="out of time: run again with --rows quantized")
            continue
        try:
            yield _measured(scene, kind, goal)
        except UNAVAILABLE as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            yield Row(goal, HOW, "side by side", "not measured", next=reason)
        if scene.device.type == "cuda":
            torch.cuda.empty_cache()


def quantized_copy(model: RewardModel, kind: str) -> RewardModel:
    """Return the model with its linear layers held in fewer bits; whatever else it has is shared with it.

    Raises:
        InvalidSetting: a package is not installed, or the device cannot do it.
        InvalidWeights: the kind takes no layer of such a shape.
    """
    source = model.backbone.decoder.state_dict()
    dtype = next(tensor.dtype for tensor in source.values())
    check_quantization(kind, model.device, dtype)
    backbone = empty_backbone(model.backbone.config, dtype)
    names = {name: name for name in source}
    left = quantize_linears(backbone.decoder, LINEAR_KINDS[kind], names, source.__getitem__)
    backbone.decoder.load_state_dict({name: source[name] for name in left}, strict=True, assign=True)
    backbone.to(model.device).requires_grad_(requires_grad=False)
    return RewardModel(model.info, model.manifest, backbone, model.head)


def _measured(scene: Scene, kind: str, goal: str) -> Row:
    quantized = quantized_copy(scene.model, kind)
    own, whole = (num_bytes(model.backbone, model.head) / 2**30 for model in (quantized, scene.model))
    figures = {"weights_gib": own, "bfloat16_weights_gib": whole}
    words = [f"{own:.3g} GiB for {whole:.3g}"]
    for size in (scene.largest_pack, scene.pack_sizes[0]):
        pack = scene.pack(size)
        models = (quantized, scene.model)
        seconds, whole_seconds = side_by_side(
            scene.device, [partial(model.forward, pack) for model in models], scene.rounds
        )
        words.append(f"packs of {size:,}: {size / seconds:,.0f} tokens/s, {whole_seconds / seconds:.2f}× bfloat16's")
        figures |= {
            f"tokens_per_second_{size}": size / seconds,
            f"bfloat16_tokens_per_second_{size}": size / whole_seconds,
        }
    figures["score_correlation"] = correlation = _correlation(scene, quantized)
    words.append(f"scores correlate with bfloat16's by {correlation:.4f}")
    return Row(goal, HOW, "side by side", "; ".join(words), figures=figures)


def _correlation(scene: Scene, quantized: RewardModel) -> float:
    """Return Pearson's correlation of scores with bfloat16's, over one of the largest packs."""
    pack = scene.pack(scene.largest_pack, seed=1)
    found_R, expected_R = (np.asarray(model.forward(pack).scores_R) for model in (quantized, scene.model))
    return float(np.asarray(np.corrcoef(found_R, expected_R))[0, 1])
