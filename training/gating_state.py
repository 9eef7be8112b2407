"""All that gating changes while it trains, and the checkpoint from which a killed run goes on to the same result.

The checkpoint is one file that is written beside and renamed. It names the recipe it was made under.

D hidden size · K objectives
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import nn

from app.domain import FloatArray
from app.model.armorm import ArmoHead
from training.artifacts import GatingFit
from training.checkpoint_files import is_checkpoint_of, read_checkpoint, write_checkpoint
from training.configs import GatingConfig
from training.heads import gating_parameters
from training.optimisation import warmup_and_cosine

ADAMW_TENSORS: Final = ("step", "exp_avg", "exp_avg_sq")
Row = tuple[float, float, float, float]
"""Step, training loss, validation loss, validation accuracy."""


class GatingState:
    """The network, β and AdamW at a step, and the network as it was at its best validation loss."""

    def __init__(self, head: ArmoHead, config: GatingConfig) -> None:
        self.head = head
        self.step = 0
        self.history: list[Row] = []
        self.beta = nn.Parameter(torch.tensor(config.initial_beta, device=head.regression_layer.weight.device))
        self._config = config
        self._trained = [*(parameter for parameter in head.parameters() if parameter.requires_grad), self.beta]
        self._adamw = torch.optim.AdamW(self._trained, lr=config.learning_rate, weight_decay=config.weight_decay)
        self._best_beta = config.initial_beta
        self._best_parameters: dict[str, FloatArray] = {}

    def descend(self, loss: torch.Tensor) -> None:
        """Take one step of AdamW down the gradient of a loss, the learning rate on its cosine."""
        self._adamw.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        for group in self._adamw.param_groups:
            group["lr"] = self._config.learning_rate * warmup_and_cosine(self.step, 0, self._config.steps)
        self._adamw.step()
        self.step += 1

    def offer(self, row: Row) -> None:
        """Take in what the validation part says; the network is remembered where its loss is the best so far."""
        self.history.append(row)
        if row is self._best_row:
            self._best_beta = self.beta.item()
            self._best_parameters = gating_parameters(self.head)

    @property
    def _best_row(self) -> Row:
        return min(self.history, key=lambda row: row[2])  # the first of equals

    @property
    def is_stale(self) -> bool:
        """Whether the best has not been beaten for as many validations as the recipe's patience."""
        return len(self.history) - 1 - self.history.index(self._best_row) >= self._config.patience

    def fit(self) -> GatingFit:
        """Return the network at its best."""
        return GatingFit(self._best_parameters, self._best_beta, *self._best_row[2:], tuple(self.history))

    def save(self, file: Path, key: str) -> None:
        """Write everything in one step."""
        tensors = {f"trained/{index}": parameter.detach() for index, parameter in enumerate(self._trained)}
        for index, parameter in enumerate(self._trained):
            moments = self._adamw.state[parameter]
            tensors |= {f"adamw/{index}/{name}": moments[name] for name in ADAMW_TENSORS if name in moments}
        tensors |= {f"best/{name}": torch.from_numpy(array) for name, array in self._best_parameters.items()}
        facts = {"step": self.step, "history": self.history, "best_beta": self._best_beta}
        write_checkpoint(file, key, facts, tensors)

    @torch.no_grad()
    def restore(self, file: Path, key: str) -> bool:
        """Go back to where a checkpoint was written; False, and nothing is changed, where none is of this key."""
        if not is_checkpoint_of(file, key):
            if file.exists():
                print("gating: the checkpoint is of another recipe or other data, so it is not used", flush=True)
            return False
        facts, tensors = read_checkpoint(file)
        for index, parameter in enumerate(self._trained):
            parameter.copy_(tensors[f"trained/{index}"])
            self._restore_moments(parameter, {name: tensors.get(f"adamw/{index}/{name}") for name in ADAMW_TENSORS})
        self.step, self._best_beta = facts["step"], facts["best_beta"]
        self.history = [tuple(row) for row in facts["history"]]
        best = {name.removeprefix("best/"): tensors[name] for name in tensors if name.startswith("best/")}
        self._best_parameters = {name: tensor.numpy() for name, tensor in best.items()}
        return True

    def _restore_moments(self, parameter: torch.Tensor, moments: dict[str, torch.Tensor | None]) -> None:
        """Give AdamW its moments back, which are where the parameter is; its count of steps stays on the CPU."""
        self._adamw.state[parameter] = {
            name: tensor if name == "step" else tensor.to(parameter.device)
            for name, tensor in moments.items()
            if tensor is not None
        }


@dataclass(frozen=True, slots=True)
class GatingRecord:
    """Where a run leaves its trace: the checkpoint, the key of its recipe, and the log of its validations."""

    checkpoint: Path
    key: str
    log: Path
