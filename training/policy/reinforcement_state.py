"""All that changes while a policy learns from its own samples, and the checkpoint a killed run goes on from.

The checkpoint is one file that is written beside and renamed; it names the recipe it was made under. What is drawn at a
step is a function of seed and step alone, so a resumed run ends as one that was not stopped.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from training.checkpoint_files import is_checkpoint_of, read_checkpoint, write_checkpoint
from training.errors import DivergedTraining, UnrewardedTraining
from training.policy.reinforcement_configs import LoopConfig


@dataclass(frozen=True, slots=True)
class ReinforcementRecord:
    """Where a run leaves its trace: the checkpoint, the key of its recipe, and the log of its steps."""

    checkpoint: Path
    key: str
    log: Path


class FailedSteps:
    """Counts steps in a row that got no reward at all."""

    def __init__(self, config: LoopConfig) -> None:
        self.in_a_row = 0
        self._config = config

    def has_any(self, num_rewards: int) -> bool:
        """Say whether a step of so many rewards has anything to learn from.

        Raises:
            UnrewardedTraining: it has not, and is one too many in a row.
        """
        self.in_a_row = 0 if num_rewards else self.in_a_row + 1
        if self.in_a_row >= self._config.most_failed_steps:
            section = self._config.SECTION
            raise UnrewardedTraining(
                f"{section}: {self.in_a_row} steps in a row got no reward at all, which is where "
                f"{section}.most_failed_steps ends the run: the service has an error for every item it is sent"
            )
        return num_rewards > 0


class ReinforcementState:
    """The trained parameters of some modules, AdamW, and how far the run is."""

    def __init__(
        self, modules: Mapping[str, nn.Module], config: LoopConfig, learning_rates: Mapping[str, float] | None = None
    ) -> None:
        """Take the parameters that require a gradient; `learning_rates` has those of modules that have their own."""
        self.step = 0
        self.failed_steps = FailedSteps(config)
        self._config = config
        self._updates = 0
        self._trained: dict[str, nn.Parameter] = {}
        self._groups: list[dict[str, Any]] = []
        for name, module in modules.items():
            found = {f"{name}/{key}": entry for key, entry in module.named_parameters() if entry.requires_grad}
            rate = (learning_rates or {}).get(name) or config.learning_rate
            self._groups.append({"params": list(found.values()), "lr": rate, "highest": rate})
            self._trained |= found
        self._adamw = torch.optim.AdamW(self._groups, weight_decay=0.0)

    def accumulate(self, loss: torch.Tensor) -> None:
        """Add the gradient of a loss to that of the next update.

        Raises:
            DivergedTraining: the loss is not finite.
        """
        self._refuse_infinite(loss, "loss")
        loss.backward()  # type: ignore[no-untyped-call]

    def update(self) -> None:
        """Take one step of AdamW down the gradient accumulated, its norm clipped, and forget it.

        Raises:
            DivergedTraining: the gradient is not finite.
        """
        norm = nn.utils.clip_grad_norm_(self._trained.values(), self._config.largest_gradient_norm)
        self._refuse_infinite(norm, "gradient")
        share = min(1.0, (self._updates + 1) / (self._config.warmup_steps + 1))
        for group in self._adamw.param_groups:
            group["lr"] = share * group["highest"]
        self._adamw.step()
        self._adamw.zero_grad(set_to_none=True)
        self._updates += 1

    def _refuse_infinite(self, value: torch.Tensor, name: str) -> None:
        if not math.isfinite(value.item()):
            section = self._config.SECTION
            raise DivergedTraining(f"{section}: the {name} is not finite: lower {section}.learning_rate")

    def save(self, file: Path, key: str) -> None:
        """Write everything in one step."""
        tensors = {f"trained/{name}": parameter.detach() for name, parameter in self._trained.items()}
        for name, parameter in self._trained.items():
            moments = self._adamw.state.get(parameter, {})
            tensors |= {f"adamw/{moment}/{name}": tensor for moment, tensor in moments.items()}
        facts = {"step": self.step, "failed": self.failed_steps.in_a_row, "updates": self._updates}
        write_checkpoint(file, key, facts, tensors)

    @torch.no_grad()
    def restore(self, file: Path, key: str) -> bool:
        """Go back to where a checkpoint was written; False, and nothing is changed, where none is of this key."""
        if not is_checkpoint_of(file, key):
            if file.exists():
                print(f"{self._config.SECTION}: the checkpoint is of another recipe, so it is not used", flush=True)
            return False
        facts, tensors = read_checkpoint(file)
        for name, parameter in self._trained.items():
            parameter.copy_(tensors[f"trained/{name}"])
        self._restore_moments(tensors)
        self.step, self._updates = facts["step"], facts["updates"]
        self.failed_steps.in_a_row = facts["failed"]
        return True

    def _restore_moments(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Give AdamW its moments back, which are where the parameter is; its count of steps stays on the CPU."""
        for key, tensor in tensors.items():
            if key.startswith("adamw/"):
                _, moment, name = key.split("/", 2)
                parameter = self._trained[name]
                self._adamw.state[parameter][moment] = tensor if moment == "step" else tensor.to(parameter.device)
