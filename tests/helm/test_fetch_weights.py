"""The script of the init container, as the chart hands it over: by digest, whole or not at all."""

import hashlib
import io
import json
import os
import signal
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import huggingface_hub
import pytest

from tests.helm.options import ARCHIVE, COMMIT, HUB, SIGNED
from tests.helm.rendering import Render, merged

TENSORS = b"tensors"
DIGEST = hashlib.sha256(TENSORS).hexdigest()
FILES = {"config.json": b"{}", "model.safetensors": TENSORS}
Fetch = Callable[..., int]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Path]:
    """Serve a folder over HTTP; its file `address` says where."""
    folder = tmp_path / "store"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    (folder / "address").write_text(f"http://127.0.0.1:{server.server_port}/weights.tar")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield folder
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    folder = tmp_path / "volume"
    folder.mkdir()
    return folder


@pytest.fixture
def fetch(render: Render, volume: Path, tmp_path: Path) -> Iterator[Fetch]:
    """Run the script of a rendered chart with the order of the same, in a volume that is a folder here."""
    before = signal.getsignal(signal.SIGTERM)

    def run(weights: dict[str, Any], **places: str) -> int:
        data = render({"weights": weights}).one("ConfigMap", "-fetch")["data"]
        script = ModuleType("fetch_weights")
        exec(compile(data["fetch_weights.py"], "fetch_weights.py", "exec"), script.__dict__)
        order = json.loads(data["order.json"])
        order["folder"] = str(volume / Path(order["folder"]).name)
        if "archive" in order:
            order["archive"].update({name: place for name, place in places.items() if name in order["archive"]})
        (tmp_path / "order.json").write_text(json.dumps(order))
        return script.main(str(tmp_path / "order.json"))

    yield run
    signal.signal(signal.SIGTERM, before)


def archive(store: Path, files: dict[str, bytes]) -> str:
    """Put an archive into the store; return its SHA-256."""
    with tarfile.open(store / "weights.tar", "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return hashlib.sha256((store / "weights.tar").read_bytes()).hexdigest()


def ordered(digest: str, weights: dict[str, Any] = ARCHIVE) -> dict[str, Any]:
    return merged(weights, {"archive": {"sha256": digest}})


def held(volume: Path) -> dict[str, bytes]:
    (folder,) = volume.iterdir()
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("top", ["", "armorm/"])
def test_an_archive_becomes_a_folder(fetch: Fetch, store: Path, volume: Path, top: str) -> None:
    digest = archive(store, {top + name: content for name, content in FILES.items()})
    assert fetch(ordered(digest), url=(store / "address").read_text()) == 0
    assert held(volume) == FILES


def test_a_signed_address_comes_from_a_file_and_is_not_printed(
    fetch: Fetch, store: Path, volume: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (store / "address").write_text((store / "address").read_text() + "?signature=secret\n")
    weights = ordered(archive(store, FILES), SIGNED)
    assert fetch(weights, url_file=str(store / "address")) == 0
    assert held(volume) == FILES
    (store / "weights.tar").unlink()
    (folder,) = volume.iterdir()
    folder.rename(volume.parent / "elsewhere")
    assert fetch(weights, url_file=str(store / "address")) == 1
    assert "404" in (said := "".join(capsys.readouterr()))
    assert "secret" not in said


def test_an_altered_archive_is_never_opened(
    fetch: Fetch, store: Path, volume: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = archive(store, FILES)
    assert fetch(ordered("ab" * 32), url=(store / "address").read_text()) == 1
    assert f"the archive has the SHA-256 {found}, not {'ab' * 32}" in capsys.readouterr().err
    assert list(volume.iterdir()) == []


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"../outside": b"", "config.json": b"{}"}, "outside the destination"),
        ({"model.safetensors": TENSORS}, "no config.json"),
        ({"a/config.json": b"{}", "b/config.json": b"{}"}, "no config.json"),
        ({}, "no config.json"),
    ],
)
def test_an_archive_that_holds_no_weights_leaves_nothing(
    fetch: Fetch, store: Path, volume: Path, capsys: pytest.CaptureFixture[str], files: dict[str, bytes], words: str
) -> None:
    assert fetch(ordered(archive(store, files)), url=(store / "address").read_text()) == 1
    assert words in capsys.readouterr().err
    assert list(volume.iterdir()) == []


def test_what_is_there_is_not_fetched_again(fetch: Fetch, store: Path, volume: Path) -> None:
    weights = ordered(archive(store, FILES))
    assert fetch(weights, url=(store / "address").read_text()) == 0
    (store / "weights.tar").unlink()
    assert fetch(weights, url=(store / "address").read_text()) == 0
    assert held(volume) == FILES


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Stand in for the hub's client, the one part that needs a network."""
    files = dict(FILES)

    def snapshot_download(hub_id: str, *, revision: str, local_dir: Path, allow_patterns: list[str]) -> None:
        assert (hub_id, revision) == ("owner/name", COMMIT)
        assert "*.safetensors" in allow_patterns
        for name, content in {**files, ".cache/huggingface/lock": b""}.items():
            (local_dir / name).parent.mkdir(parents=True, exist_ok=True)
            (local_dir / name).write_bytes(content)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return files


def pinned(**digests: str) -> dict[str, Any]:
    return {**HUB, "hub": {**HUB["hub"], "sha256": {f"{name}.safetensors": digest for name, digest in digests.items()}}}


def test_a_repository_becomes_a_folder(fetch: Fetch, hub: dict[str, bytes], volume: Path) -> None:
    assert fetch(pinned(model=DIGEST)) == 0
    assert held(volume) == hub


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (pinned(model="ab" * 32), "model.safetensors has the SHA-256"),
        (pinned(other=DIGEST), "model.safetensors has no SHA-256 in weights.hub.sha256"),
        (pinned(model=DIGEST, other=DIGEST), "other.safetensors of weights.hub.sha256 is not in the repository"),
    ],
)
def test_a_repository_that_is_not_as_ordered_leaves_nothing(
    fetch: Fetch, hub: dict[str, bytes], volume: Path, capsys: pytest.CaptureFixture[str], weights: Any, words: str
) -> None:
    assert fetch(weights) == 1
    assert words in capsys.readouterr().err
    assert list(volume.iterdir()) == []


def test_the_loser_of_a_race_uses_what_the_winner_brought(
    fetch: Fetch, hub: dict[str, bytes], volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = huggingface_hub.snapshot_download

    def beaten(*arguments: Any, **options: Any) -> None:
        monkeypatch.setattr(huggingface_hub, "snapshot_download", first)
        assert fetch(pinned(model=DIGEST)) == 0
        first(*arguments, **options)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", beaten)
    assert fetch(pinned(model=DIGEST)) == 0
    assert held(volume) == hub


def test_what_a_killed_attempt_left_is_removed_and_another_pods_is_not(
    fetch: Fetch, store: Path, volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = volume / f".{'0' * 16}-left"
    (begun / "weights").mkdir(parents=True)
    (begun / "weights" / "model.safetensors").write_bytes(TENSORS)
    (volume / ".snapshot-of-yours").mkdir()
    weights = ordered(archive(store, FILES))
    address = (store / "address").read_text()
    assert fetch(weights, url=address) == 0
    assert begun.exists(), "another Pod may be at it"
    (folder,) = [one for one in volume.iterdir() if not one.name.startswith(".")]
    folder.rename(volume.parent / "elsewhere")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 7200)
    assert fetch(weights, url=address) == 0
    assert sorted(one.name for one in volume.iterdir()) == [".snapshot-of-yours", folder.name]


def test_an_end_in_the_middle_leaves_nothing(
    fetch: Fetch, hub: dict[str, bytes], volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told_to_end(*_: object, local_dir: Path, **__: object) -> None:
        local_dir.mkdir()
        (local_dir / "config.json").write_bytes(b"{}")
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", told_to_end)
    with pytest.raises(SystemExit, match="143"):
        fetch(pinned(model=DIGEST))
    assert list(volume.iterdir()) == []
