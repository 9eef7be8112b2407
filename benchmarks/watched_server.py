"""`python -m app serve` that writes down how late its event loop was.

    python -m benchmarks.watched_server LAGS_FILE [--setting value]...

A task asks to be woken every millisecond; how much later it is woken is what every caller waited, whatever held the
loop or the interpreter. Lines of the file: when it was woken (monotonic seconds) and how late (seconds). Beside it, in
LAGS_FILE.collections, the same of every garbage collection: when it ended and how long it took; and in LAGS_FILE.packs
of every forward pass, with its tokens.
"""

import asyncio
import gc
import sys
import time
from dataclasses import replace
from pathlib import Path
from socket import socket
from typing import IO

from app.__main__ import end_process
from app.api.logs import logging_to_stderr
from app.api.server import DrainingServer
from app.engine import Engine
from app.main import load_engine, serve
from app.packing import Pack, PackOutput
from app.settings import Settings, read_settings

BEAT_SECONDS = 0.001


async def _watch(lags: IO[str]) -> None:
    while True:
        due = time.monotonic() + BEAT_SECONDS
        await asyncio.sleep(BEAT_SECONDS)
        woken = time.monotonic()
        lags.write(f"{woken:.6f} {max(woken - due, 0.0):.6f}\n")


def _watch_collections(path: str) -> None:
    durations = Path(f"{path}.collections").open("a", encoding="utf-8", buffering=1)  # noqa: SIM115 - until the end
    began = 0.0

    def note(phase: str, _: dict[str, int]) -> None:
        nonlocal began
        now = time.monotonic()
        if phase == "start":
            began = now
        else:
            durations.write(f"{now:.6f} {now - began:.6f}\n")

    gc.callbacks.append(note)


def _watched_engine(settings: Settings, path: str) -> Engine:
    engine = load_engine(settings)
    durations = Path(f"{path}.packs").open("a", encoding="utf-8", buffering=1)  # noqa: SIM115 - until the end

    def forward(pack: Pack) -> PackOutput:
        began = time.monotonic()
        output = engine.forward(pack)
        now = time.monotonic()
        durations.write(f"{now:.6f} {now - began:.6f} {pack.num_tokens}\n")
        return output

    return replace(engine, forward=forward)


def main() -> int:
    """Serve until a signal."""
    flags = dict(zip(sys.argv[2::2], sys.argv[3::2], strict=True))
    settings = read_settings({name.removeprefix("--").replace("-", "_"): value for name, value in flags.items()})
    start = DrainingServer.startup
    _watch_collections(sys.argv[1])

    with (
        logging_to_stderr(settings.log_format, settings.log_level),
        Path(sys.argv[1]).open("a", encoding="utf-8", buffering=1) as lags,
    ):

        async def watched_startup(self: DrainingServer, sockets: list[socket] | None = None) -> None:
            watching = asyncio.create_task(_watch(lags))
            self.config.app.state.watching = watching  # type: ignore[union-attr] # or it is collected
            await start(self, sockets)

        DrainingServer.startup = watched_startup  # type: ignore[method-assign]
        failure = serve(settings, lambda settings: _watched_engine(settings, sys.argv[1]))
    return 0 if failure is None else 1


if __name__ == "__main__":
    end_process(main())
