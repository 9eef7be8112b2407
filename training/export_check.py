"""Whether a weights folder as the server loads it says what the parts say that it was made from; and its known answers.

T packed tokens · P prompts · R responses · D hidden size · K objectives · C intensity classes of a head
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch

from app.canary import make_canary, write_canary
from app.domain import FloatArray, Item
from app.errors import InvalidConversation
from app.model.armorm import ArmoHead
from app.model.backbone import Backbone
from app.model.weights import load_reward_model, read_config
from app.pack_builder import pack_of
from app.packing import Pack, PackOutput
from app.text.tokenization import load_tokenizer
from training.artifacts import BACKBONE, IntensityFit, Workspace
from training.base import gating_token_of
from training.canary_items import CANARY_ITEMS
from training.checkpoints import restore_backbone
from training.errors import BadExport
from training.inference import features_of, hidden_states
from training.intensity_export import intensities_of

LARGEST_DIFFERENCE: Final = 1e-4
"""Allowed between the loaded folder and the parts it was made from, relative to the largest of its kind."""
FLOAT32_TOLERANCE: Final = 5e-4
"""Other processors add in another order."""
HALF_PRECISION: Final = ("bfloat16", "float16")
SAFETY_FACTOR: Final = 3.0
"""Half-precision tolerances are this many times what was measured here."""


def check_and_record(folder: Path, workspace: Workspace, head: ArmoHead, fit: IntensityFit | None = None) -> None:
    """Load the folder as the server does, compare it with the parts it was made from, and record the known answers.

    One model at a time is in memory.

    Raises:
        BadExport: the loaded folder does not give the readouts of its parts.
    """
    limit = read_config(folder).max_position_embeddings
    encode = load_tokenizer(folder, gating_token=gating_token_of(folder), max_conversation_tokens=limit).encode
    items = [item for item in CANARY_ITEMS if _is_taken(item, encode)]
    packs = [pack_of(encode(item, "never").conversations) for item in items]
    expected = read_parts(workspace, head, packs, fit)
    tolerance = {"float32": FLOAT32_TOLERANCE}
    for dtype in HALF_PRECISION:
        measured = largest_difference(loaded_outputs(folder, dtype, packs), expected)
        tolerance[dtype] = float(f"{SAFETY_FACTOR * max(measured, FLOAT32_TOLERANCE):.1e}")
    forward = load_reward_model(folder, device="cpu", dtype="float32").forward
    difference = largest_difference([forward(pack) for pack in packs], expected)
    if not difference <= LARGEST_DIFFERENCE:
        raise BadExport(f"the folder as loaded differs from its parts by {difference:.1e} of the largest of a kind")
    write_canary(folder, make_canary(items, encode, forward, tolerance))


def _is_taken(item: Item, encode: Callable[[Item], object]) -> bool:
    """Say whether a template takes an item: some refuse a system message."""
    try:
        encode(item)
    except InvalidConversation:
        return False
    return True


def loaded_outputs(folder: Path, dtype: str, packs: Sequence[Pack]) -> list[PackOutput]:
    """Read packs with the folder as the server loads it."""
    forward = load_reward_model(folder, device="cpu", dtype=dtype).forward
    return [forward(pack) for pack in packs]


def read_parts(
    workspace: Workspace, head: ArmoHead, packs: Sequence[Pack], fit: IntensityFit | None = None
) -> list[PackOutput]:
    """Read packs with the parts that the folder is made from."""
    backbone = restore_backbone(workspace, BACKBONE)
    return [read(backbone, head, pack, fit) for pack in packs]


@torch.inference_mode()
def read(backbone: Backbone, head: ArmoHead, pack: Pack, fit: IntensityFit | None = None) -> PackOutput:
    """Read a pack with the parts in memory."""
    features_RD, prompt_features_PD = features_of(hidden_states(backbone, pack), pack)
    output = head.readout(features_RD, prompt_features_PD, torch.from_numpy(pack.prefix_of_response_R))
    arrays = {name: getattr(output, name).numpy() for name in ("rewards_RK", "gating_PK", "scores_R")}
    intensities = intensities_of(fit, features_RD)
    return PackOutput(prefix_of_response_R=pack.prefix_of_response_R, intensities=intensities, **arrays)


def largest_difference(first: Sequence[PackOutput], second: Sequence[PackOutput]) -> float:
    """Return the largest difference of any reward, gating coefficient, score or probability of an intensity.

    Each is relative to the largest of its kind in `second`; infinite where only one of them has an intensity head.
    """
    pairs = [(_arrays(one), _arrays(other)) for one, other in zip(first, second, strict=True)]
    if any(one.keys() != other.keys() for one, other in pairs):
        return math.inf
    differences = []
    for kind in pairs[0][1]:
        scale = max(float(np.abs(other[kind]).max()) for _, other in pairs)
        differences += [float(np.abs(one[kind] - other[kind]).max()) / scale for one, other in pairs]
    return float(np.max(differences))  # NaN stays NaN


def _arrays(output: PackOutput) -> dict[str, FloatArray]:
    readouts = {kind: getattr(output, kind) for kind in ("rewards_RK", "gating_PK", "scores_R")}
    return readouts | {f"intensities/{name}": values_RC for name, values_RC in output.intensities.items()}
