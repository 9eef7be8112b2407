"""Run `serve` on each folder given, each in a process of its own, and print how each ended as a line of JSON.

The processes are forked from one that has everything imported, so that a table of wrong folders takes seconds.
"""

import json
import os
import sys
import tempfile

import app.loading  # noqa: F401 - imports torch, once for all
from app.__main__ import main


def ending_of(folder: str) -> dict[str, object]:
    """Return the exit code of the command, and all that it wrote."""
    with tempfile.TemporaryFile() as written:
        process = os.fork()
        if process == 0:
            os.dup2(written.fileno(), sys.stdout.fileno())
            os.dup2(written.fileno(), sys.stderr.fileno())
            code = main(["serve", "--weights", folder, "--port", "0", "--log-level", "warning"])
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        _, status = os.waitpid(process, 0)
        written.seek(0)
        return {"folder": folder, "code": os.waitstatus_to_exitcode(status), "written": written.read().decode()}


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(json.dumps(ending_of(name)), flush=True)  # noqa: T201 - its answer
