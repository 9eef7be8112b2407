"""Measure the exported folder as it is served: test pairs and benchmarks, with intervals, into the card.

Scores come from the server's loader and forward pass. Knows nothing of how the folder was made.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from app.domain import Item, Message
from app.model.manifest import read_manifest
from app.model.weights import load_reward_model
from training.artifacts import Workspace
from training.card import CARD_FILE, TEST_SECTION, Results, card
from training.configs import Recipe
from training.data.sources import TEST, BenchmarkPair, read_benchmark, read_preferences
from training.inference import encode_items, num_tokens, pack_items, plan_packs, token_bar
from training.metrics import SubsetAccuracy, subset_accuracy

GROUPED: Final = "rmbench-"
Key = tuple[tuple[Message, ...], str]


def benchmark_and_test_pairs(folder: Path) -> list[BenchmarkPair]:
    """Return every pair to measure; those that overlap the training data are left out."""
    tests = [
        BenchmarkPair(pair.source, TEST_SECTION, pair.prompt, pair.chosen, pair.rejected, str(number))
        for number, pair in enumerate(read_preferences(folder, TEST))
    ]
    return tests + [pair for pair in read_benchmark(folder) if not pair.overlaps_training]


def score_responses(
    folder: Path, pairs: Sequence[BenchmarkPair], pack_tokens: int
) -> tuple[dict[Key, float], dict[Key, int]]:
    """Score each distinct response once, prompts shared; return scores and lengths in tokens.

    A response over the model's limit has neither.
    """
    responses: dict[tuple[Message, ...], dict[str, None]] = {}
    for pair in pairs:
        responses.setdefault(pair.prompt, {}).update({pair.chosen: None, pair.rejected: None})
    items = [Item(prompt, tuple(texts)) for prompt, texts in responses.items()]
    model = load_reward_model(folder)
    encoded = encode_items(folder, items, model.info.max_conversation_tokens)
    known = [(item, tokens) for item, tokens in zip(items, encoded, strict=True) if tokens is not None]
    lengths = [num_tokens(tokens) for _, tokens in known]
    scores: dict[Key, float] = {}
    sizes: dict[Key, int] = {}
    with token_bar(sum(lengths), "evaluation") as bar:
        for indices in plan_packs(lengths, range(len(known)), pack_tokens):
            output = model.forward(pack_items([known[index][1] for index in indices]))
            keys = [(known[index][0].prompt, text) for index in indices for text in known[index][0].responses]
            scores |= dict(zip(keys, (float(readout.score or 0.0) for readout in output.readouts()), strict=True))
            tokens = [one for index in indices for one in known[index][1].conversations]
            sizes |= dict(zip(keys, (len(conversation.response_ids) for conversation in tokens), strict=True))
            bar.update(sum(lengths[index] for index in indices))
    return scores, sizes


def measure(pairs: Sequence[BenchmarkPair], values: dict[Key, float] | dict[Key, int]) -> list[SubsetAccuracy]:
    """Measure every subset by a value per response; pairs with a response that has none are left out."""
    by_subset: dict[tuple[str, str], list[BenchmarkPair]] = {}
    for pair in pairs:
        if (pair.prompt, pair.chosen) in values and (pair.prompt, pair.rejected) in values:
            by_subset.setdefault((pair.subset, pair.section), []).append(pair)
    results = []
    for (subset, section), members in by_subset.items():
        margins_B = np.array([values[p.prompt, p.chosen] - values[p.prompt, p.rejected] for p in members], dtype=float)
        groups = [p.group if subset.startswith(GROUPED) else str(index) for index, p in enumerate(members)]
        results.append(subset_accuracy(subset, section, margins_B, groups))
    return results


def run(recipe: Recipe, workspace: Workspace) -> None:
    """Measure the folder, print the table, and write it into the card."""
    folder = Path(recipe.export.folder)
    pairs = benchmark_and_test_pairs(Path(recipe.data.folder))
    scores, sizes = score_responses(folder, pairs, recipe.evaluation.pack_tokens)
    results = Results(measure(pairs, scores), measure(pairs, sizes))
    manifest = read_manifest(folder)
    if manifest is None:
        raise ValueError("an exported folder has a manifest. This is a bug.")
    with workspace.writing("evaluation") as place:
        (place / "results.json").write_text(json.dumps(dataclasses.asdict(results), indent=1), encoding="utf-8")
    (folder / CARD_FILE).write_text(card(manifest, results), encoding="utf-8")
    print(results.table())
    print(f"macro mean over the test pairs: {results.test_mean():.3f}")
