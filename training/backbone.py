"""Joint training of the backbone: Bradley–Terry on preferences and regression on ratings, so that its features
are worth probing. The heads used here are thrown away; ridge and gating fit their own on the frozen features.

T packed tokens · R responses · D hidden size · K objectives · B preference pairs
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from app.model.backbone import Backbone
from app.packing import Pack
from training.artifacts import BACKBONE, LANGUAGE_MODEL, TOKENIZER, Workspace
from training.checkpoints import restore_backbone, save_backbone
from training.configs import BackboneConfig, Recipe
from training.data.dataset import read_dataset
from training.examples import Example, Labels, join_labels, read_examples
from training.inference import (
    autocast,
    features_of,
    hidden_states,
    num_tokens,
    pack_items,
    plan_epochs,
    plan_packs,
    token_bar,
)
from training.losses import bradley_terry_loss, regression_loss
from training.metrics import accuracy_by_source, macro_mean
from training.optimisation import Optimiser


class ProbingHeads(nn.Module):
    """A preference score and K objectives, both linear on the features of a response."""

    def __init__(self, hidden_size: int, mean_K: torch.Tensor, variance_K: torch.Tensor) -> None:
        super().__init__()
        self.preference = nn.Linear(hidden_size, 1, bias=False)
        self.regression = nn.Linear(hidden_size, len(mean_K))
        self.variance_K = variance_K
        nn.init.zeros_(self.preference.weight)
        nn.init.zeros_(self.regression.weight)
        self.regression.bias.data.copy_(mean_K)


@dataclass(frozen=True, slots=True)
class JointTraining:
    """Backbone and probing heads under one loss."""

    backbone: Backbone
    heads: ProbingHeads
    config: BackboneConfig

    def scores(self, pack: Pack) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the preference scores (R,) and the predicted ratings (R, K) of one pack."""
        features_RD, _ = features_of(hidden_states(self.backbone, pack), pack)
        return self.heads.preference(features_RD).float()[:, 0], self.heads.regression(features_RD).float()

    def loss(self, pack: Pack, labels: Labels) -> torch.Tensor:
        """Return the Bradley–Terry loss plus the weighted regression loss of one pack."""
        scores_R, predicted_RK = self.scores(pack)
        ratings_RK = torch.from_numpy(labels.ratings_RK)
        loss = self.config.regression_weight * regression_loss(predicted_RK, ratings_RK, self.heads.variance_K)
        if len(labels.pairs_B2):
            loss = loss + bradley_terry_loss(scores_R, torch.from_numpy(labels.pairs_B2))
        return loss


def train_jointly(
    training: JointTraining,
    examples: Sequence[Example],
    validation: Sequence[Example],
    seed: int,
    *,
    mixed_precision: bool,
) -> None:
    """Train backbone and heads in place on the examples, and show how the validation part is ordered meanwhile."""
    config = training.config.optimiser
    lengths = [num_tokens(example.tokens) for example in examples]
    plan = plan_epochs(lengths, config.epochs, config.pack_tokens, seed)
    optimiser = Optimiser([training.backbone, training.heads], config, len(plan))
    recent: list[float] = []
    with token_bar(sum(lengths[index] for indices in plan for index in indices), "backbone") as bar:
        for step, indices in enumerate(plan, start=1):
            chosen = [examples[index] for index in indices]
            pack = pack_items([example.tokens for example in chosen])
            with autocast(enabled=mixed_precision):
                loss = training.loss(pack, join_labels(chosen))
            optimiser.step(loss)
            recent.append(loss.item())
            bar.update(pack.num_tokens)
            if step % training.config.validate_every_steps == 0 or step == len(plan):
                accuracy = validate(training, validation, mixed_precision=mixed_precision)
                print(
                    f"\nstep {step} of {len(plan)}: loss {np.mean(recent):.3f}, {accuracy_line(accuracy)}", flush=True
                )
                recent = []


@torch.inference_mode()
def validate(training: JointTraining, examples: Sequence[Example], *, mixed_precision: bool) -> dict[str, float]:
    """Return the share of pairs that the preference score orders right, by source."""
    with_pairs = [example for example in examples if len(example.pairs_B2)]
    lengths = [num_tokens(example.tokens) for example in with_pairs]
    margins: list[float] = []
    for indices in plan_packs(lengths, range(len(with_pairs)), training.config.optimiser.pack_tokens):
        chosen = [with_pairs[index] for index in indices]
        with autocast(enabled=mixed_precision):
            scores_R, _ = training.scores(pack_items([example.tokens for example in chosen]))
        pairs_B2 = join_labels(chosen).pairs_B2
        margins += (scores_R[pairs_B2[:, 0]] - scores_R[pairs_B2[:, 1]]).tolist()
    sources = [source for example in with_pairs for source in example.pair_sources]
    return accuracy_by_source(np.asarray(margins), sources)


def accuracy_line(accuracy: Mapping[str, float]) -> str:
    """Say the accuracies in one line."""
    parts = ", ".join(f"{source} {value:.3f}" for source, value in accuracy.items())
    return f"validation macro {macro_mean(accuracy):.3f} ({parts})"


def probing_heads(hidden_size: int, examples: Sequence[Example]) -> ProbingHeads:
    """Start the heads at each objective's mean, and measure its variance."""
    ratings_RK = join_labels(examples).ratings_RK
    mean_K, variance_K = np.nanmean(ratings_RK, axis=0), np.nanvar(ratings_RK, axis=0)
    return ProbingHeads(hidden_size, torch.from_numpy(mean_K), torch.from_numpy(np.maximum(variance_K, 1e-4)))


def run(recipe: Recipe, workspace: Workspace) -> None:
    """Train on the training part, measure on the validation part, and round to the type that is stored."""
    torch.manual_seed(recipe.seed)
    dataset = read_dataset(recipe.data)
    examples = read_examples(dataset, workspace.path(TOKENIZER), recipe.data.max_conversation_tokens)
    train = [example for example in examples if not example.is_validation]
    backbone = restore_backbone(workspace, LANGUAGE_MODEL, recipe.architecture)
    training = JointTraining(backbone, probing_heads(recipe.architecture.hidden_size, train), recipe.backbone)
    validation = [example for example in examples if example.is_validation]
    train_jointly(training, train, validation, recipe.seed, mixed_precision=recipe.mixed_precision)
    save_backbone(workspace, BACKBONE, backbone, getattr(torch, recipe.architecture.dtype))
