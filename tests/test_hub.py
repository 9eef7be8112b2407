from pathlib import Path
from typing import Any

import pytest

from app import hub
from app.errors import InvalidWeights


def test_a_folder_that_is_here_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert not hub.is_hub_id("owner/name")
    assert hub.local_weights("owner/name") == Path("owner/name")


@pytest.mark.parametrize("weights", ["weights/nothing", "/absolute/folder", "../up", "a/b/c", "name", "a b/c", ""])
def test_what_is_no_hub_id_is_a_folder_here_or_not(weights: str) -> None:
    assert not hub.is_hub_id(weights)
    assert hub.local_weights(weights) == Path(weights)


def test_a_hub_id_is_downloaded_without_pickles_and_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: dict[str, Any] = {}

    def snapshot_download(hub_id: str, **options: Any) -> str:
        asked.update(options, hub_id=hub_id)
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    assert hub.is_hub_id("RLHFlow/ArmoRM-Llama3-8B-v0.1")
    assert hub.local_weights("RLHFlow/ArmoRM-Llama3-8B-v0.1") == tmp_path
    assert asked["hub_id"] == "RLHFlow/ArmoRM-Llama3-8B-v0.1"
    assert set(asked["allow_patterns"]) == {"*.safetensors", "*.json", "*.jinja"}


def test_without_a_network_one_line_says_so() -> None:
    with pytest.raises(InvalidWeights, match="someone/something could not be downloaded") as caught:
        hub.download("someone/something")
    assert "\n" not in str(caught.value)


def test_a_wrong_id_is_not_asked_for() -> None:
    with pytest.raises(InvalidWeights, match="OWNER/NAME"):
        hub.download("just-a-name")
