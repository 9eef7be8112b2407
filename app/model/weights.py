"""Load a weights folder into a `RewardModel`: strictly, digest-checked, straight into the target type and device.

Every tensor must be there, in its shape, and nothing may be left over: a head that is silently drawn at random is
the field's commonest serving fault. Knows the two layouts (ArmoRM's and sequence classification), no text.
"""

import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, TypeVar, cast

import torch
from transformers import AutoConfig, PretrainedConfig

from app.domain import IntensityHead, ModelInfo
from app.errors import InvalidSetting, InvalidWeights
from app.model import manifest as manifests
from app.model.armorm import ArmoHead, GatingNetwork
from app.model.backbone import Backbone, empty_backbone
from app.model.integrity import CONFIG_FILE, verified_revision
from app.model.manifest import Manifest, MoslimSpec
from app.model.moslim import MOSLIM_FILE, IntensityHeads, read_intensity_heads
from app.model.published import ARMORM_ARCHITECTURE, published_manifest
from app.model.quantization import LINEAR_KINDS, UNQUANTIZED, check_quantization, quantize_linears
from app.model.reward_model import RewardModel
from app.model.tensor_parallel import Ranks
from app.model.tensors import TensorFiles, model_files, shapes_of

Number = TypeVar("Number", int, float)

DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class Target:
    """Where the weights go, and as what."""

    device: torch.device
    dtype: torch.dtype
    quantization: str = UNQUANTIZED
    ranks: Ranks | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """How weights are to be loaded; None and auto leave it to them."""

    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    dtype: str = "auto"
    """auto, float32, bfloat16 or float16; auto is float32 on the CPU, and the checkpoint's half precision (else
    bfloat16) on CUDA."""
    quantization: str = UNQUANTIZED
    """none, int8, nf4 or fp8; then `dtype` is that of everything but the decoder's linear layers and the heads."""
    moslim_weights: Path | None = None
    name: str | None = None
    """What the weights are known as where they have no manifest: a hub id, or the folder's own name."""
    ranks: Ranks | None = None
    """The processes that divide the backbone."""


def load_reward_model(
    folder: Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    quantization: str = UNQUANTIZED,
    moslim_weights: Path | None = None,
    name: str | None = None,
) -> RewardModel:
    """Load `folder` whole, as `Wanted` describes.

    Raises:
        InvalidWeights, InvalidSetting: as `load_wanted`.
    """
    return load_wanted(folder, Wanted(device, dtype, quantization, moslim_weights, name))


def load_wanted(folder: Path, wanted: Wanted) -> RewardModel:
    """Load `folder`, or this process's part of it.

    Raises:
        InvalidWeights: anything about the folder that is not as it must be, in one line.
        InvalidSetting: the device is not there, the type is unknown, or quantisation is not to be had here.
    """
    config, manifest = _read_description(folder, wanted.name)
    target = replace(_target(wanted.device, wanted.dtype, config), quantization=wanted.quantization)
    if wanted.ranks is not None:
        target = replace(target, device=_own_device(target.device, wanted), ranks=wanted.ranks)
    check_quantization(target.quantization, target.device, target.dtype)
    tensors = TensorFiles(model_files(folder))
    moslim_file = _moslim_file(folder, manifest, wanted.moslim_weights)
    revision = verified_revision(folder, manifest, [*tensors.files, *([moslim_file] if moslim_file else [])])
    backbone, head = _load_modules(config, manifest, tensors, target)
    named = manifest.moslim if wanted.moslim_weights is None else None
    heads, specs = (None, ()) if moslim_file is None else _load_intensity_heads(moslim_file, config, named, target)
    return RewardModel(_info(manifest, config, target, specs, revision), manifest, backbone, head, heads)


def read_revision(folder: Path, *, moslim_weights: Path | None = None, name: str | None = None) -> str:
    """Return the revision that loading `folder` would give, from the digests of its files; nothing is loaded.

    Raises:
        InvalidWeights, InvalidSetting: as loading would.
    """
    _, manifest = _read_description(folder, name)
    moslim_file = _moslim_file(folder, manifest, moslim_weights)
    return verified_revision(folder, manifest, [*model_files(folder), *([moslim_file] if moslim_file else [])])


def read_config(folder: Path) -> PretrainedConfig:
    """Read a folder's config.json; no code that came with it is run.

    Raises:
        InvalidWeights: there is none, or it is not understood.
    """
    if not folder.is_dir():
        raise InvalidWeights(f"weights folder {folder} does not exist")
    if not (folder / CONFIG_FILE).exists():
        raise InvalidWeights(f"{folder} has no {CONFIG_FILE}")
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # transformers has no narrower promise, and its messages have many lines
        raise InvalidWeights(f"{CONFIG_FILE} is not understood: {' '.join(str(error).split())}") from error


def _read_description(folder: Path, name: str | None) -> tuple[PretrainedConfig, Manifest]:
    config = read_config(folder)
    return config, manifests.read_manifest(folder) or published_manifest(name or folder.name, config)


def _target(device: str, dtype: str, config: PretrainedConfig) -> Target:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise InvalidSetting(f"device: {device} is not one of auto, cpu, cuda, cuda:N") from error
    if place.type not in ("cpu", "cuda") or (place.type == "cuda" and not torch.cuda.is_available()):
        raise InvalidSetting(f"device: {device} is not available here; allowed are auto, cpu, cuda, cuda:N")
    if dtype == "auto":
        half = config.dtype if config.dtype in (torch.bfloat16, torch.float16) else torch.bfloat16
        return Target(place, torch.float32 if place.type == "cpu" else half)
    if dtype not in DTYPES:
        raise InvalidSetting(f"dtype: {dtype} is not one of auto, {', '.join(DTYPES)}")
    return Target(place, DTYPES[dtype])


def _own_device(place: torch.device, wanted: Wanted) -> torch.device:
    """Return the device that torchrun's processes were joined with, where it is of the kind that is wanted."""
    joined = cast("Ranks", wanted.ranks).device
    if joined.type != place.type or place.index is not None:
        raise InvalidSetting(f"device = {wanted.device!r} is not allowed under torchrun; allowed: auto, {joined.type}")
    return joined


def _load_modules(
    config: PretrainedConfig, manifest: Manifest, tensors: TensorFiles, target: Target
) -> tuple[Backbone, ArmoHead]:
    backbone, head = empty_backbone(config, target.dtype), _empty_head(config, manifest)
    decoder_names = {key: f"model.{key}" for key in shapes_of(backbone.decoder)}
    head_names = {key: _published_key(key, head) for key in shapes_of(head)}
    layout = {decoder_names[key]: shape for key, shape in shapes_of(backbone.decoder).items()}
    layout |= {head_names[key]: shape for key, shape in shapes_of(head).items()}
    tensors.check(layout)
    if target.ranks is not None:
        backbone = target.ranks.divided(backbone)
    left = decoder_names
    if target.quantization != UNQUANTIZED:
        read = partial(tensors.read, dtype=target.dtype, device=target.device)
        left = quantize_linears(backbone.decoder, LINEAR_KINDS[target.quantization], decoder_names, read)
    tensors.fill(backbone.decoder, left, target.dtype, target.device)
    tensors.fill(head, head_names, torch.float32, target.device)
    return backbone.to(target.device), head


def _empty_head(config: PretrainedConfig, manifest: Manifest) -> ArmoHead:
    gated = (config.architectures or [""])[0] == ARMORM_ARCHITECTURE
    count = getattr(config, "num_objectives", None) if gated else config.num_labels
    if count != len(manifest.objectives):
        raise InvalidWeights(f"config.json has {count} objectives, the manifest names {len(manifest.objectives)}")
    if gated != (manifest.gating is not None):
        where = ("config.json", "the manifest") if gated else ("the manifest", "config.json")
        raise InvalidWeights(f"{where[0]} has a gating network, {where[1]} has none")
    with torch.device("meta"):
        if not gated:
            return ArmoHead(config.hidden_size, count)
        gating = GatingNetwork(
            config.hidden_size,
            count,
            hidden_dim=_above_zero(config, "gating_hidden_dim", 1024),
            n_hidden=_above_zero(config, "gating_n_hidden", 3),
            temperature=_above_zero(config, "gating_temperature", 10.0),
        )
        return ArmoHead(config.hidden_size, count, gating)


def _above_zero(config: PretrainedConfig, name: str, default: Number) -> Number:
    value = getattr(config, name, default)
    if isinstance(value, bool) or not isinstance(value, int | type(default)) or not 0 < value < math.inf:
        raise InvalidWeights(f"{CONFIG_FILE} has the {name} {value!r}, which must be a number above 0")
    return value


def _published_key(key: str, head: ArmoHead) -> str:
    """A head's tensor is called as in the published layout; a sequence classifier's only one is `score.weight`."""
    return key if head.gating is not None else key.replace("regression_layer.", "score.")


def _moslim_file(folder: Path, manifest: Manifest, moslim_weights: Path | None) -> Path | None:
    file = moslim_weights or folder / MOSLIM_FILE
    file = file / MOSLIM_FILE if file.is_dir() else file
    if file.exists():
        return file
    if moslim_weights is not None:
        raise InvalidSetting(
            f"moslim_weights = {str(moslim_weights)!r} is not allowed; "
            f"allowed: a {MOSLIM_FILE}, or a folder that holds one"
        )
    if manifest.moslim is not None:
        raise InvalidWeights(f"{file}, whose MOSLIM heads the manifest names, is not there")
    return None


def _load_intensity_heads(
    file: Path, config: PretrainedConfig, named: MoslimSpec | None, target: Target
) -> tuple[IntensityHeads, tuple[IntensityHead, ...]]:
    """Read a file of heads; `named` is what the manifest says of them, None where they are not the folder's own."""
    expected = {spec.name: spec.classes for spec in named.heads} if named else {}
    heads, specs = read_intensity_heads(file, config.hidden_size, target.device, tuple(expected))
    if named is None:
        return heads, specs
    loaded = {spec.name: spec.classes for spec in specs}
    if loaded != expected:
        raise InvalidWeights(f"{file.name} has the heads {loaded} where the manifest names {expected}")
    return heads, tuple(replace(spec, statistics=named.statistics) for spec in specs)


def _info(
    manifest: Manifest, config: PretrainedConfig, target: Target, heads: tuple[IntensityHead, ...], revision: str
) -> ModelInfo:
    return ModelInfo(
        name=manifest.name,
        revision=revision,
        template="",
        dtype=str(target.dtype).removeprefix("torch."),
        device=str(target.device),
        objectives=manifest.objectives,
        has_gating=(config.architectures or [""])[0] == ARMORM_ARCHITECTURE,
        max_conversation_tokens=config.max_position_embeddings,
        composites=manifest.composites,
        heads=heads,
        score_quantiles=manifest.score_quantiles,
        description=manifest.description,
        quantization=target.quantization,
    )
