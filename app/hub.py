"""Weights by name: a folder here, or a repository of the Hugging Face hub. Knows no model and no tokenizer."""

import re
from pathlib import Path

from huggingface_hub import snapshot_download

from app.errors import InvalidWeights

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
FILES = ["*.safetensors", "*.json", "*.jinja"]
"""What a reward model consists of: no pickle and no code is ever downloaded."""


def is_hub_id(weights: str) -> bool:
    """Say whether `weights` names a repository: not a folder that is here, nor one of ours that is not."""
    is_folder = Path(weights).exists() or weights.startswith("weights/")
    return HUB_ID.fullmatch(weights) is not None and not is_folder


def local_weights(weights: str) -> Path:
    """Return the folder of `weights`, downloaded into the hub's cache where it is a hub id.

    Raises:
        InvalidWeights: there is no such folder, or the download failed.
    """
    return download(weights) if is_hub_id(weights) else Path(weights)


def download(hub_id: str, to: Path | None = None) -> Path:
    """Download a repository's weights into the folder `to`, else into the hub's cache.

    Raises:
        InvalidWeights: one line that says why it could not be done.
    """
    if HUB_ID.fullmatch(hub_id) is None:
        raise InvalidWeights(f"{hub_id} is no hub id: one looks like OWNER/NAME")
    try:
        return Path(snapshot_download(hub_id, local_dir=to, allow_patterns=FILES))
    except Exception as error:  # the hub's client raises its own, its transport's and the system's
        reason = str(error).strip().splitlines()
        raise InvalidWeights(
            f"{hub_id} could not be downloaded ({type(error).__name__}): {reason[0] if reason else 'no reason given'}"
        ) from error
