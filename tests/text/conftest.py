"""One folder per tokenizer family, written once."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.text.tokenizer_families import write_family

FolderOf = Callable[[str], Path]


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> FolderOf:
    """Return the folder of a family's tokenizer."""
    written: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in written:
            written[name] = write_family(tmp_path_factory.mktemp(name), name)
        return written[name]

    return folder
