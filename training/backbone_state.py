"""All that changes while a backbone is trained, and the checkpoint from which a killed run goes on to the same result.

Only what is trained is held: with adapters, a few megabytes. The checkpoint is one safetensors file, written beside and
renamed; it names the recipe that it was made under. Knows no loss.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import nn

from training.checkpoint_files import is_checkpoint_of, read_checkpoint, write_checkpoint
from training.optimisation import Optimiser

CPU_RANDOM: Final = "random/cpu"
CUDA_RANDOM: Final = "random/cuda"


@dataclass(frozen=True, slots=True)
class Checkpointing:
    """Where the state is kept between steps, under which recipe, and how often; and the log that goes with it."""

    file: Path
    key: str
    every_steps: int
    log: Path

    def is_due(self, step: int) -> bool:
        return self.every_steps > 0 and step % self.every_steps == 0

    def exists(self) -> bool:
        """Say whether there is a checkpoint of this recipe."""
        return is_checkpoint_of(self.file, self.key)


class BackboneState:
    """The trained parameters, AdamW and the random numbers at a step, and, off the device, their best so far."""

    def __init__(self, modules: dict[str, nn.Module], optimiser: Optimiser) -> None:
        self.optimiser = optimiser
        self.best_measure = -math.inf
        self._trained = {
            f"{module}/{name}": parameter
            for module, owner in modules.items()
            for name, parameter in owner.named_parameters()
            if parameter.requires_grad
        }
        self._best: dict[str, torch.Tensor] = {}

    @property
    def step(self) -> int:
        return self.optimiser.steps_taken

    def offer(self, measure: float) -> bool:
        """Remember the parameters where a measure, the higher the better, is the best so far; say whether it was."""
        if self._best and not measure > self.best_measure:
            return False
        self.best_measure = measure
        self._best = {name: parameter.detach().to("cpu", copy=True) for name, parameter in self._trained.items()}
        return True

    @torch.no_grad()
    def take_best(self) -> None:
        """Give the parameters the values they had at their best."""
        for name, parameter in self._trained.items():
            parameter.copy_(self._best[name])

    def save(self, checkpointing: Checkpointing) -> None:
        """Write everything in one step."""
        tensors = {f"trained/{name}": parameter.detach() for name, parameter in self._trained.items()}
        tensors |= {f"best/{name}": tensor for name, tensor in self._best.items()}
        tensors |= {f"adamw/{name}": tensor for name, tensor in self.optimiser.moments().items()}
        tensors[CPU_RANDOM] = torch.get_rng_state()
        if torch.cuda.is_available():
            tensors[CUDA_RANDOM] = torch.cuda.get_rng_state()
        facts = {"step": self.step, "best_measure": self.best_measure}
        write_checkpoint(checkpointing.file, checkpointing.key, facts, tensors)

    @torch.no_grad()
    def restore(self, checkpointing: Checkpointing) -> bool:
        """Go back to where a checkpoint was written; False, and nothing is changed, where none is of this recipe."""
        if not checkpointing.exists():
            return False
        facts, tensors = read_checkpoint(checkpointing.file)
        for name, parameter in self._trained.items():
            parameter.copy_(tensors[f"trained/{name}"])
        self._best = {name: tensors[f"best/{name}"] for name in self._trained}
        self.best_measure = facts["best_measure"]
        moments = {name.removeprefix("adamw/"): tensors[name] for name in tensors if name.startswith("adamw/")}
        self.optimiser.restore(moments, facts["step"])
        torch.set_rng_state(tensors[CPU_RANDOM])
        if CUDA_RANDOM in tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors[CUDA_RANDOM])
        return True
