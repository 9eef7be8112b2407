"""A server of quantised weights says so wherever it names its model, and is ready only where they answer nearly as
whole ones did."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from app import canary
from app.engine import Engine
from app.errors import InvalidWeights
from app.main import load_engine
from app.settings import read_settings
from tests.api.real_weights import serving_with_heads
from tests.checkpoints import write_own_folder

BODY = {"prompt": "Name a colour.", "responses": ["Blue.", "I would rather not say, and that at some length."]}
PRECISIONS = {"none": "float32", "int8": "float32+int8"}
STRICT = {"float32": 1e-4}
Clients = dict[str, httpx.Client]


def load(folder: Path, quantization: str = "none") -> Engine:
    return load_engine(read_settings({"weights": str(folder), "device": "cpu", "quantization": quantization}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights with the known answers that they gave while they were whole."""
    folder = write_own_folder(tmp_path_factory.mktemp("quantized") / "tiny")
    whole = load(folder)
    canary.write_canary(folder, canary.make_canary(canary.PROBE_ITEMS, whole.encode, whole.forward, STRICT))
    return folder


@pytest.fixture(scope="module")
def clients(folder: Path) -> Iterator[Clients]:
    """A client of a server by its quantisation."""
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(serving_with_heads(folder, folder.parent, quantization=name)).client
            for name in PRECISIONS
        }


@pytest.mark.parametrize("quantization", PRECISIONS)
def test_every_name_of_the_model_tells_the_quantisation(clients: Clients, quantization: str) -> None:
    client = clients[quantization]
    assert client.get("/readyz").status_code == 200
    model = client.post("/score", json=BODY).json()["model"]
    assert model["dtype"] == PRECISIONS[quantization]
    info = client.get("/info").json()["model"]
    assert info["quantization"] == quantization
    assert info.items() >= model.items()
    families = text_string_to_metric_families(client.get("/metrics").text)
    (samples,) = [family.samples for family in families if family.name == "armoserve_model_info"]
    assert [sample.labels for sample in samples] == [model | {"quantization": quantization}]


def test_answers_are_nearly_the_same_and_told_apart(clients: Clients) -> None:
    whole, quantized = (client.post("/score", json=BODY).json() for client in clients.values())
    scores, near = whole["results"][0]["scores"], quantized["results"][0]["scores"]
    assert scores != near
    assert near == pytest.approx(scores, abs=canary.QUANTIZED_TOLERANCE["int8"] * max(map(abs, scores)))
    assert {name for name in whole["model"] if whole["model"][name] != quantized["model"][name]} == {"dtype"}


def test_known_answers_leave_as_much_room_as_quantisation_takes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(folder, "int8").info.quantization == "int8"
    monkeypatch.setattr(canary, "QUANTIZED_TOLERANCE", {"none": 0.0, "int8": 0.0})
    assert load(folder).info.quantization == "none"
    with pytest.raises(InvalidWeights, match=r"differs from the known answer of canary\.json"):
        load(folder, "int8")


def test_quantised_weights_that_are_not_those_of_the_known_answers_are_not_served(folder: Path, tmp_path: Path) -> None:
    other = write_own_folder(tmp_path / "other", seed=1)
    shutil.copyfile(folder / canary.FILE_NAME, other / canary.FILE_NAME)
    with pytest.raises(InvalidWeights, match=r"differs from the known answer of canary\.json"):
        load(other, "int8")
