"""The real server process around the fake engine: `python -m tests.end_to_end.serve_fake [--setting value]...`."""

import sys

from app.__main__ import end_process
from app.api.logs import logging_to_stderr
from app.main import serve
from app.settings import read_settings
from tests.api.fake_engine import FakeEngine

HOLD_SECONDS = 5.0
"""Longer than the drain delays of the tests: what is held is inside when the server stops accepting."""


def main() -> int:
    flags = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    settings = read_settings({name.removeprefix("--").replace("-", "_"): value for name, value in flags.items()})
    with logging_to_stderr(settings.log_format, settings.log_level):
        failure = serve(settings, lambda _: FakeEngine(hold_seconds=HOLD_SECONDS).engine())
    return 0 if failure is None else 1


if __name__ == "__main__":
    end_process(main())
