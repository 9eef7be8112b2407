"""The engine: loaded weights as the rest of the service sees them. Knows no tensor and no tokenizer, only functions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from app.canary import Encode, Forward
from app.domain import Item, ModelInfo, Truncation
from app.packing import PrefixMemory

if TYPE_CHECKING:
    from app.text.conversation_tokenizer import RenderedItem

Render: TypeAlias = "Callable[[Item, Truncation], RenderedItem]"


@dataclass(frozen=True, slots=True)
class Engine:
    """What `app.loading` makes of a weights folder, and what a test makes of a few lines."""

    info: ModelInfo
    encode: Encode
    encode_rollout: Encode
    """The same for what a policy wrote: special-token strings in it are plain text even where they are rejected."""
    forward: Forward
    render: Render
    memory: Callable[[], Mapping[str, float]] = dict
    """Kind of device memory → bytes; empty where the device has none of its own."""
    prefix_memory: PrefixMemory | None = None
    """What the model remembers of prompts, for packs to leave out."""
