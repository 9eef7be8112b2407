"""The finer faults of a weights folder: heads, manifest values and configurations that would fail later, or lie."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch

from tests.checkpoints import Tensors
from tests.model.spoiling import Spoil, Wrong, entries, replaced, tensors


def undigested(change: Spoil) -> Spoil:
    """Spoil a folder whose manifest gives no digests, so that the fault itself must be found."""

    def spoil(folder: Path) -> None:
        change(folder)
        entries("manifest.json", lambda held: held.update(sha256={}))(folder)

    return spoil


def manifest(change: Callable[[dict[str, Any]], Any]) -> Spoil:
    return entries("manifest.json", change)


def config(change: Callable[[dict[str, Any]], Any]) -> Spoil:
    return entries("config.json", change)


def renamed_head(new: str) -> Spoil:
    """Call the head `honesty` something else, in its tensors; the manifest says nothing of heads."""

    def rename(held: Tensors) -> None:
        for name in [name for name in held if name.startswith("honesty.")]:
            held[name.replace("honesty", new)] = held.pop(name)

    def spoil(folder: Path) -> None:
        tensors(rename, "moslim.safetensors")(folder)
        manifest(lambda held: held.update(moslim=None))(folder)

    return spoil


WRONG_DETAILS: Final = (
    Wrong(
        "head without its bias",
        "own",
        undigested(tensors(lambda held: held.pop("honesty.bias"), "moslim.safetensors")),
        ("honesty.bias",),
    ),
    Wrong(
        "head of another width",
        "own",
        undigested(replaced("honesty.weight", lambda rows: rows[:, 1:], "moslim.safetensors")),
        ("honesty.weight",),
    ),
    Wrong(
        "standard deviation of zero",
        "own",
        undigested(replaced("honesty.mapping_std", lambda values: values * 0, "moslim.safetensors")),
        ("honesty", "std"),
    ),
    Wrong(
        "standard deviation that is no number",
        "own",
        undigested(replaced("honesty.mapping_std", lambda values: values * torch.nan, "moslim.safetensors")),
        ("honesty",),
    ),
    Wrong(
        "head that is a number",
        "own",
        undigested(replaced("honesty.weight", lambda rows: rows[0, 0], "moslim.safetensors")),
        ("honesty.weight",),
    ),
    Wrong("head with the name of a method", "own", undigested(renamed_head("keys")), ("keys",)),
    Wrong("head with no plain name", "own", undigested(renamed_head("a.b")), ("a.b",)),
    Wrong("gating that the manifest denies", "own", manifest(lambda held: held.update(gating=None)), ("gating",)),
    Wrong("name that is a number", "own", manifest(lambda held: held.update(name=5)), ("manifest.json", "name")),
    Wrong(
        "digest that is a number", "own", manifest(lambda held: held["sha256"].update(x=5)), ("manifest.json", "sha256")
    ),
    Wrong("heads without a list", "own", manifest(lambda held: held.update(moslim={})), ("manifest.json", "heads")),
    Wrong(
        "beta that is text", "own", manifest(lambda held: held["gating"].update(beta="x")), ("manifest.json", "beta")
    ),
    Wrong(
        "native scale that is text",
        "own",
        manifest(lambda held: held["objectives"][0]["native"].update(slope="x")),
        ("manifest.json", "slope"),
    ),
    Wrong(
        "quantile that is no number",
        "own",
        manifest(lambda held: held.update(score_quantiles=[float("nan")])),
        ("manifest.json", "score_quantiles"),
    ),
    Wrong(
        "quantiles out of order",
        "own",
        manifest(lambda held: held["objectives"][0].update(quantiles=[1.0, 0.0])),
        ("manifest.json", "quantiles"),
    ),
    Wrong(
        "index with a number for a shard",
        "sharded",
        entries("model.safetensors.index.json", lambda index: index.update(weight_map={"a": 1})),
        ("model.safetensors.index.json",),
    ),
    Wrong(
        "temperature of zero", "armorm", config(lambda held: held.update(gating_temperature=0)), ("gating_temperature",)
    ),
    Wrong("depth that is text", "armorm", config(lambda held: held.update(gating_n_hidden="3")), ("gating_n_hidden",)),
    Wrong("width that is text", "armorm", config(lambda held: held.update(hidden_size="64")), ("hidden_size",)),
    Wrong(
        "a backbone that looks ahead",
        "gemma2",
        config(lambda held: held.update(use_bidirectional_attention=True)),
        ("bidirectional",),
    ),
)
