"""Work that takes minutes, off the event loop."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

Result = TypeVar("Result")


async def in_daemon_thread(work: Callable[[], Result]) -> Result:
    """Do work in a thread that does not keep the process from ending: loading may take minutes."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()

    def run() -> None:
        try:
            result = work()
        except Exception as error:  # handed to whoever waits
            deliver = partial(future.set_exception, error)
        else:
            deliver = partial(future.set_result, result)
        with suppress(RuntimeError):  # the loop has ended: nobody waits any more
            loop.call_soon_threadsafe(lambda: None if future.done() else deliver())

    threading.Thread(target=run, name="armoserve-load", daemon=True).start()
    return await future
