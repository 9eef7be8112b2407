"""Real weights behind the real application: intensity heads where a folder has none, and an engine that can be held."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from app.engine import Engine
from app.main import load_engine
from app.model.moslim import MOSLIM_FILE
from app.packing import Pack, PackOutput
from app.settings import Settings
from tests.api.serving import PATIENCE_SECONDS, Served, serving, wait_until
from tests.checkpoints import write_moslim_heads

LOADING_SECONDS = 120.0
"""Real weights on a busy machine."""
DEFAULT_WEIGHTS = Path(__file__).resolve().parents[2] / "weights" / "default"


@dataclass
class HeldEngine:
    """The engine of a weights folder: it remembers its packs, and its forward passes wait while it is held."""

    packs: list[Pack] = field(default_factory=list)
    may_go_on: threading.Event = field(default_factory=threading.Event)
    engine: Engine | None = None

    def load(self, settings: Settings) -> Engine:
        self.engine = load_engine(settings)
        self.may_go_on.set()
        return replace(self.engine, forward=self.forward)

    def forward(self, pack: Pack) -> PackOutput:
        assert self.engine is not None
        self.packs.append(pack)
        assert self.may_go_on.wait(PATIENCE_SECONDS)
        return self.engine.forward(pack)


@contextmanager
def serving_with_heads(folder: Path, scratch: Path, held: HeldEngine | None = None, **changes: str) -> Iterator[Served]:
    """Serve a folder on the CPU; where it has no intensity heads, random ones written into `scratch`."""
    settings = {"weights": str(folder), "device": "cpu", "dtype": "float32"} | changes
    if not (folder / MOSLIM_FILE).exists():
        hidden_size = json.loads((folder / "config.json").read_text())["hidden_size"]
        settings["moslim_weights"] = str(write_moslim_heads(scratch / MOSLIM_FILE, hidden_size))
    with serving(load=held.load if held else load_engine, **settings) as running:
        wait_until(lambda: running.state.model is not None, LOADING_SECONDS)
        yield running
