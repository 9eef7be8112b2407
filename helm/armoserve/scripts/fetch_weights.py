"""Fetch weights into a folder, or leave them where they are already: python fetch_weights.py ORDER.json.

Runs before the server, in the same image. Nothing is opened or kept that does not have the digest that the order gives.
The folder appears whole or not at all, so several Pods may fetch into one volume. What a killed one left goes.
"""

import contextlib
import hashlib
import json
import shutil
import signal
import sys
import tarfile
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

FILES = ["*.safetensors", "*.json", "*.jinja"]
"""What a reward model consists of: no pickle and no code is ever downloaded."""
CHUNK_BYTES = 2**22
SILENCE_SECONDS = 60
BEGUN = "." + "[0-9a-f]" * 16 + "-*"
"""What `fetch` calls a folder that is not whole yet; a shared volume may hold much else."""
ABANDONED_SECONDS = 3600
"""Whoever still fetches writes far more often, and hashes what it fetched in less."""


class RefusedError(Exception):
    """What was fetched is not what was ordered."""


def main(order_file: str) -> int:
    """Do what the order says, and say in one line how it ended."""
    order = json.loads(Path(order_file).read_text(encoding="utf-8"))
    folder = Path(order["folder"])
    # A container's first process ignores SIGTERM unless it says otherwise; so the Pod ends at once, and tidies up.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    code, words = 0, f"{folder} is there already"
    if not folder.exists():
        try:
            fetch(order, folder)
            words = f"{folder} is complete, and every digest is as ordered"
        except (RefusedError, OSError, tarfile.TarError) as error:
            code, words = 1, f"weights could not be fetched: {error}"
    sys.stderr.write(words + "\n")
    return code


def fetch(order: dict[str, Any], folder: Path) -> None:
    """Fetch beside the folder, check, and only then give it its name.

    Raises:
        RefusedError: a digest is another, or there are no weights in what came.
    """
    remove_abandoned(folder.parent)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as beside:
        found = from_hub(order["hub"], Path(beside)) if "hub" in order else from_archive(order["archive"], Path(beside))
        found.chmod(0o755)
        try:
            found.rename(folder)
        except OSError:
            if not folder.exists():  # else another Pod was faster, with the same bytes
                raise


def remove_abandoned(volume: Path) -> None:
    """Remove what was begun here and killed: else a few attempts fill the volume, and none can succeed."""
    for begun in volume.glob(BEGUN):
        with contextlib.suppress(OSError):  # another Pod tidies up too
            latest = max(part.lstat().st_ctime for part in [begun, *begun.rglob("*")])
            if time.time() - latest > ABANDONED_SECONDS:
                shutil.rmtree(begun, ignore_errors=True)


def from_hub(hub: dict[str, Any], beside: Path) -> Path:
    # Not needed for archives, and slow to import.
    from huggingface_hub import snapshot_download  # noqa: PLC0415

    folder = beside / "weights"
    try:
        snapshot_download(hub["id"], revision=hub["revision"], local_dir=folder, allow_patterns=FILES)
    except Exception as error:  # the hub's client raises its own, its transport's and the system's
        raise RefusedError(f"{hub['id']} at {hub['revision']}: {type(error).__name__}: {error}") from error
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    check_files(folder, hub["sha256"])
    return folder


def check_files(folder: Path, expected: dict[str, str]) -> None:
    """See that every tensor file has a digest in the order, and every file of the order has its own.

    Raises:
        RefusedError: names the file.
    """
    for file in sorted(folder.rglob("*.safetensors")):
        if str(file.relative_to(folder)) not in expected:
            raise RefusedError(f"{file.relative_to(folder)} has no SHA-256 in weights.hub.sha256")
    for name, digest in expected.items():
        if not (folder / name).is_file():
            raise RefusedError(f"{name} of weights.hub.sha256 is not in the repository")
        with (folder / name).open("rb") as stream:
            check_digest(name, hashlib.file_digest(stream, "sha256").hexdigest(), digest)


def check_digest(name: str, found: str, expected: str) -> None:
    if found != expected:
        raise RefusedError(f"{name} has the SHA-256 {found}, not {expected}")


def from_archive(archive: dict[str, str], beside: Path) -> Path:
    url = archive["url"] if "url" in archive else Path(archive["url_file"]).read_text(encoding="utf-8").strip()
    if not url.startswith(("https://", "http://")):
        raise RefusedError("the address of an archive begins with https:// or http://")
    file = beside / "archive"
    # The address may be signed, and so is never printed.
    check_digest("the archive", download(url, file), archive["sha256"])
    folder = beside / "weights"
    folder.mkdir()
    with tarfile.open(file) as tar:
        tar.extractall(folder, filter="data")
    file.unlink()
    return weights_in(folder)


def download(url: str, file: Path) -> str:
    """Write what an address answers into a file; return its SHA-256."""
    digest = hashlib.sha256()
    with urllib.request.urlopen(url, timeout=SILENCE_SECONDS) as answer, file.open("wb") as stream:  # noqa: S310
        while chunk := answer.read(CHUNK_BYTES):
            digest.update(chunk)
            stream.write(chunk)
    return digest.hexdigest()


def weights_in(folder: Path) -> Path:
    """Return the folder that holds config.json: this one, or the only one in it.

    Raises:
        RefusedError: there is none.
    """
    inside = list(folder.iterdir())
    for candidate in [folder, *(inside if len(inside) == 1 else [])]:
        if (candidate / "config.json").is_file():
            return candidate
    raise RefusedError("the archive holds no config.json, neither at its top nor in its only folder")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
