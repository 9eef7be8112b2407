"""Sound weights folders of every layout, and ways to spoil them in place."""

import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file

from tests.checkpoints import Tensors, write_armorm, write_classifier, write_own_folder

Spoil = Callable[[Path], None]


@dataclass(frozen=True, slots=True)
class Wrong:
    """A sound folder of one layout, what is done to it, and what the message must name."""

    what: str
    layout: str
    spoil: Spoil
    named: tuple[str, ...]


LAYOUTS: Final[dict[str, Callable[[Path], Path]]] = {
    "armorm": write_armorm,
    "sharded": lambda folder: write_armorm(folder, shards=3),
    "classifier": lambda folder: write_classifier(folder, "mistral", num_labels=10),
    "own": write_own_folder,
    "gemma2": lambda folder: write_classifier(folder, "gemma2"),
}

REGRESSION: Final = "regression_layer.weight"


def tensors(change: Callable[[Tensors], Any], file: str = "model.safetensors") -> Spoil:
    """Rewrite the tensors of a file in place."""

    def spoil(folder: Path) -> None:
        held = {name: tensor.clone() for name, tensor in load_file(folder / file).items()}
        change(held)
        (folder / file).unlink()
        save_file({name: tensor.contiguous() for name, tensor in held.items()}, folder / file)

    return spoil


def without(name: str) -> Spoil:
    return tensors(lambda held: held.pop(name))


def replaced(name: str, make: Callable[[torch.Tensor], torch.Tensor], file: str = "model.safetensors") -> Spoil:
    return tensors(lambda held: held.update({name: make(held[name])}), file)


def entries(file: str, change: Callable[[dict[str, Any]], Any]) -> Spoil:
    """Rewrite a JSON file in place."""

    def spoil(folder: Path) -> None:
        document = json.loads((folder / file).read_text())
        change(document)
        (folder / file).write_text(json.dumps(document))

    return spoil


def content(file: str, change: Callable[[bytes], bytes]) -> Spoil:
    return lambda folder: (folder / file).write_bytes(change((folder / file).read_bytes())) and None


def removed(file: str) -> Spoil:
    return lambda folder: (folder / file).unlink()


def only_a_pickle(folder: Path) -> None:
    """Leave a pickle that writes a file beside itself when it is opened."""
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(str(folder / "opened"))))


class Trap:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path(self.path),))
