"""The stages in order, and what makes a finished one reusable. The only module that knows all stages.

A stage's key digests its own section of the recipe, the data files where it reads them, and the keys of the stages it
needs. A finished stage whose key still holds is reused; one that was stopped starts again from what it needs.
"""

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from training import backbone, debias, evaluation, export, features, gating, language_model, ridge, tokenizer
from training.artifacts import Workspace
from training.configs import Recipe
from training.data.jsonl import data_files, file_digest
from training.errors import InvalidRecipe, MissingArtifact

ALL: Final = "all"


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a run."""

    name: str
    purpose: str
    run: Callable[[Recipe, Workspace], None]
    sections: tuple[str, ...]
    """Sections of the recipe that change the result."""
    needs: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    """Folders of the data that are read."""


LABELLED: Final = ("ratings", "preferences")
STAGES: Final[tuple[Stage, ...]] = (
    Stage("tokenizer", "byte-level BPE on the conversations", tokenizer.run, ("data", "tokenizer"), (), LABELLED),
    Stage(
        "language_model",
        "language modelling on the conversations, from nothing",
        language_model.run,
        ("seed", "mixed_precision", "architecture", "language_model"),
        ("tokenizer",),
    ),
    Stage(
        "backbone",
        "Bradley–Terry on preferences and regression on ratings, jointly",
        backbone.run,
        ("seed", "mixed_precision", "backbone"),
        ("language_model",),
    ),
    Stage("features", "one forward pass over every labelled response", features.run, ("features",), ("backbone",)),
    Stage("ridge", "one ridge regression per objective", ridge.run, ("ridge",), ("features",)),
    Stage("debias", "rewards freed of verbosity", debias.run, ("debias",), ("ridge",)),
    Stage("gating", "Bradley–Terry on debiased rewards", gating.run, ("seed", "gating"), ("debias",)),
    Stage("export", "the weights folder, reloaded and compared", export.run, ("export",), ("gating",)),
    Stage(
        "evaluation",
        "accuracy on test pairs and benchmarks, into the card",
        evaluation.run,
        ("evaluation",),
        ("export",),
        ("preferences", "benchmark"),
    ),
)


def stage_names() -> tuple[str, ...]:
    return tuple(stage.name for stage in STAGES)


def run_stages(name: str, recipe: Recipe) -> None:
    """Run one stage, or all in order; finished ones are reused.

    Raises:
        InvalidRecipe: there is no such stage.
        MissingArtifact: a stage is asked for alone, and one that it needs has not been run with this recipe.
    """
    if name not in (ALL, *stage_names()):
        raise InvalidRecipe(f"there is no stage {name}; there are {ALL}, {', '.join(stage_names())}")
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    workspace = Workspace(Path(recipe.work_folder))
    keys = stage_keys(recipe)
    for stage in STAGES:
        if name in (ALL, stage.name):
            _run_stage(stage, recipe, workspace, keys)


def stage_keys(recipe: Recipe) -> dict[str, str]:
    """Return the key of every stage under a recipe."""
    values = dataclasses.asdict(recipe)
    keys: dict[str, str] = {}
    for stage in STAGES:
        content = {
            "sections": {section: values[section] for section in stage.sections},
            "needs": [keys[need] for need in stage.needs],
            "data": {kind: _data_digests(recipe, kind) for kind in stage.reads},
        }
        keys[stage.name] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    return keys


def _run_stage(stage: Stage, recipe: Recipe, workspace: Workspace, keys: dict[str, str]) -> None:
    if workspace.finished_key(stage.name) == keys[stage.name]:
        print(f"{stage.name}: reused", flush=True)
        return
    for need in stage.needs:
        if workspace.finished_key(need) != keys[need]:
            raise MissingArtifact(f"{stage.name} needs the stage {need}, which was not run with this recipe and data")
    print(f"{stage.name}: {stage.purpose}", flush=True)
    workspace.mark_unfinished(stage.name)
    started = time.monotonic()
    stage.run(recipe, workspace)
    seconds = time.monotonic() - started
    workspace.mark_finished(stage.name, keys[stage.name], seconds)
    print(f"{stage.name}: done in {seconds:.0f} s", flush=True)


def _data_digests(recipe: Recipe, kind: str) -> dict[str, str]:
    files = data_files(Path(recipe.data.folder) / kind)
    return {source: file_digest(path) for source, path in files.items()}
