"""From a weights folder to an engine: where model and tokenizer meet. Importing this imports torch."""

import gc
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import cast

from app.canary import PROBE_ITEMS, check_canary, check_packed_equals_alone, read_canary
from app.domain import ModelInfo
from app.engine import Engine
from app.errors import InvalidSetting, InvalidWeights
from app.hub import is_hub_id, local_weights
from app.known_answer import check_known_answer, has_known_answer
from app.model.prefix_cache import PrefixCache, default_budget_bytes
from app.model.reward_model import RewardModel
from app.model.tensor_parallel import Ranks, follow, join
from app.model.weights import Wanted, load_wanted, read_revision
from app.settings import Settings, bound_kernel_caches, num_torchrun_processes
from app.text.tokenization import load_tokenizer

COLLECT_AFTER = (2_500, 5, 100)
"""New objects to a young garbage collection, young ones to a middle one, middle ones to a full one.

A collection stops every thread and takes about 0.2 ms per thousand objects that it walks: all but the full one walk
17,500 at most. A full one walks all of the requests that are inside, tens of milliseconds where they are large, so it
is kept rare: a dozen requests of 4,096 items apart. It is what finds cycles that have grown old, and those that wait
for it are 1.8 million objects at most."""

UNDIVIDED = MappingProxyType(
    {
        "quantization": (("none",), "none"),
        "prefix_cache_bytes": ((None, 0), "unset or 0"),
        "batch_invariant": ((False,), "false"),
    }
)
"""What settings may be where torchrun's processes divide a backbone, and in words."""


def load_checked_engine(settings: Settings) -> Engine:
    """Load weights and tokenizer, and see them give the answers that they must.

    Raises:
        InvalidWeights, InvalidSetting: one line that says what is wrong.
    """
    folder = local_weights(settings.weights).absolute()  # `.` has no name of its own
    model = _load_model(folder, settings, _ranks(settings))
    limit = _conversation_limit(settings, model.info)
    tokenizer = load_tokenizer(
        folder,
        template_kind=model.manifest.template.kind,
        frozen_date=model.manifest.template.frozen_date,
        gating_token="last_prompt_token" if model.manifest.gating is None else model.manifest.gating.token,
        max_conversation_tokens=model.info.max_conversation_tokens,
    )
    if tokenizer.largest_content_id >= model.vocabulary_size:
        raise InvalidWeights(
            f"the tokenizer gives ids up to {tokenizer.largest_content_id}, "
            f"the weights embed only {model.vocabulary_size} tokens"
        )
    info = replace(model.info, template=tokenizer.template_digest, max_conversation_tokens=limit)
    # Known answers are longer than a tight limit and may spell special tokens: they are checked without either.
    engine = Engine(info, tokenizer.encode, tokenizer.encode, model.forward, tokenizer.render)
    check_engine(engine, folder, has_own_heads=settings.moslim_weights is None)
    _prepare(model, settings)
    lenient = replace(tokenizer, max_conversation_tokens=limit, policy="neutralise")
    served = replace(lenient, policy=settings.special_tokens)
    # What was imported and loaded stays for good, and a full collection that walks all of it stops every thread for
    # most of a second: whatever is garbage by now goes, and the rest is never looked at again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)
    return Engine(
        info, served.encode, lenient.encode, model.forward, served.render, model.memory_bytes, model.prefix_cache
    )


def follow_torchrun(settings: Settings) -> None:
    """Compute with the process of rank 0 until it has ended.

    Raises:
        InvalidWeights, InvalidSetting: one line that says what is wrong.
    """
    ranks = cast("Ranks", _ranks(settings))
    model = _load_model(local_weights(settings.weights).absolute(), settings, ranks)
    follow(model.backbone, ranks)


def weights_revision(settings: Settings) -> str:
    """Return the revision of the weights that the settings name; they are digested, not loaded.

    Raises:
        InvalidWeights, InvalidSetting: one line that says what is wrong.
    """
    name = settings.weights if is_hub_id(settings.weights) else None
    folder = local_weights(settings.weights).absolute()
    return read_revision(folder, moslim_weights=settings.moslim_weights, name=name)


def check_engine(engine: Engine, folder: Path, *, has_own_heads: bool = True) -> None:
    """Warm the engine with what it must be able to do: the same answer in company as alone, and known answers.

    Intensities are known of the folder's own heads only.

    Raises:
        InvalidWeights: it does not.
    """
    info = engine.info
    check_packed_equals_alone(PROBE_ITEMS, engine.encode, engine.forward, info.dtype)
    if (canary := read_canary(folder)) is not None:
        known = canary if has_own_heads else canary.without_intensities()
        check_canary(known, engine.encode, engine.forward, info.dtype, info.objective_names, info.quantization)
    if has_known_answer(info):
        check_known_answer(info, engine.encode, engine.forward)


def _load_model(folder: Path, settings: Settings, ranks: Ranks | None) -> RewardModel:
    bound_kernel_caches()
    name = settings.weights if is_hub_id(settings.weights) else None
    wanted = Wanted(settings.device, settings.dtype, settings.quantization, settings.moslim_weights, name, ranks)
    return load_wanted(folder, wanted)


def _ranks(settings: Settings) -> Ranks | None:
    """Meet the other processes that torchrun started; none where it started none.

    Raises:
        InvalidSetting: a setting that no divided backbone can have.
    """
    num_ranks = num_torchrun_processes()
    if num_ranks == 1:
        return None
    for name, (allowed, words) in UNDIVIDED.items():
        if (value := getattr(settings, name)) not in allowed:
            raise InvalidSetting(f"{name} = {value!r} is not allowed under torchrun; allowed: {words}")
    return join(num_ranks)


def _prepare(model: RewardModel, settings: Settings) -> None:
    """Let checked weights serve: only what they say of one length, and with what they said of prompts before."""
    if settings.batch_invariant:
        model.invariant_pack_tokens = settings.max_pack_tokens
    budget_bytes = settings.prefix_cache_bytes
    if num_torchrun_processes() > 1:
        budget_bytes = 0  # the keys and values are divided too, and rank 0 could remember its own only
    if budget_bytes is None:
        budget_bytes = default_budget_bytes(model.device)
    if budget_bytes:
        model.prefix_cache = PrefixCache(budget_bytes, whole_prompts_only=settings.batch_invariant)


def _conversation_limit(settings: Settings, info: ModelInfo) -> int:
    asked = settings.max_conversation_tokens
    if asked is not None and asked > info.max_conversation_tokens:
        raise InvalidSetting(
            f"max_conversation_tokens = {asked} is not allowed; "
            f"allowed: up to {info.max_conversation_tokens}, the longest that {info.name} takes"
        )
    return min(asked or info.max_conversation_tokens, settings.max_pack_tokens)
