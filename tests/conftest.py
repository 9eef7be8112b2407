"""What every test shares: a quiet, offline, single-threaded process and the optional data beside the repository.

Importing this loads no torch, so tests of plain code stay fast.
"""

import os
from pathlib import Path

import pytest
from hypothesis import settings

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / "shared"


def pytest_configure() -> None:
    """One thread, so that results do not depend on the machine; no network, so that a test cannot fetch its answer."""
    quiet = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    os.environ.update(quiet | {"HF_HUB_DISABLE_TELEMETRY": "1", "TRANSFORMERS_VERBOSITY": "error"})
    settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
    settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that have slow tests: of two workers neither waits for the other's last file."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("ARMOSERVE_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def llama3_tokenizer_folder() -> Path:
    """The real Llama 3 tokenizer, which is never part of the repository."""
    return _folder_or_skip("llama3-tokenizer", needs="tokenizer.json")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real ratings, preferences, benchmarks and prompts, which are never part of the repository."""
    return _folder_or_skip("data", needs="README.md")


def _folder_or_skip(name: str, needs: str) -> Path:
    folder = SHARED / name
    if not (folder / needs).exists():
        pytest.skip(f"{name} is not beside this repository")
    return folder
