"""Features are those of each conversation alone, in the examples' order, whatever the packs."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from app.domain import Item, Message, Objective, TokenizedConversation, TokenizedItem
from app.pack_builder import pack_of
from training.artifacts import Workspace
from training.backbone_configs import ArchitectureConfig
from training.checkpoints import new_backbone, restore_backbone, save_backbone
from training.configs import FeaturesConfig, Recipe
from training.data.dataset import Dataset
from training.data.labelled import LabelledItem
from training.distributed import Rank
from training.errors import InvalidRecipe
from training.examples import Example, join_labels
from training.feature_extraction import extract_features, placed_backbone
from training.feature_plan import PlannedShard, plan_shards
from training.feature_shards import join_features
from training.inference import hidden_states, one_ahead, plan_epochs, plan_packs

ARCHITECTURE = ArchitectureConfig(hidden_size=32, layers=2, attention_heads=2, intermediate_size=64)


def example(generator: np.random.Generator, num_responses: int, *, is_validation: bool) -> Example:
    prefix = tuple(generator.integers(0, 50, generator.integers(3, 9)).tolist())
    conversations = tuple(
        TokenizedConversation(prefix, tuple(generator.integers(0, 50, generator.integers(1, 7)).tolist()), 1)
        for _ in range(num_responses)
    )
    ratings_RK = generator.random((num_responses, 2)).astype(np.float32)
    pairs_B2 = np.array([[0, num_responses - 1]])
    return Example(TokenizedItem(conversations), ratings_RK, pairs_B2, ("source",), is_validation)


@pytest.fixture
def examples() -> list[Example]:
    generator = np.random.default_rng(0)
    return [example(generator, count, is_validation=count == 3) for count in (2, 3, 2, 4, 3)]


def test_features_equal_one_by_one(examples: list[Example]) -> None:
    backbone = new_backbone(ARCHITECTURE, 50, seed=0)
    features = extract_features(backbone, examples, ("a", "b"), pack_tokens=40)
    conversations = [one for each in examples for one in each.tokens.conversations]
    assert features.num_responses == len(conversations)
    with torch.inference_mode():
        for response, conversation in enumerate(conversations):
            hidden_TD = hidden_states(backbone, pack_of([conversation])).numpy()
            np.testing.assert_allclose(features.features_RD[response], hidden_TD[-1], atol=2e-6)
            prompt = features.prompt_of_response_R[response]
            gating_D = hidden_TD[conversation.gating_index]
            np.testing.assert_allclose(features.prompt_features_PD[prompt], gating_D, atol=2e-6)
    assert features.response_tokens_R.tolist() == [len(one.response_ids) for one in conversations]
    assert features.is_validation_R.sum() == 6
    np.testing.assert_array_equal(features.ratings_RK, np.concatenate([each.ratings_RK for each in examples]))


def test_a_shard_whose_items_are_all_left_out_is_empty_and_joins(examples: list[Example]) -> None:
    backbone = new_backbone(ARCHITECTURE, 50, seed=0)
    some, none = (extract_features(backbone, part, ("a", "b"), pack_tokens=40) for part in (examples, []))
    assert (none.num_responses, none.hidden_size, none.ratings_RK.shape) == (0, 32, (0, 2))
    joined = join_features([none, some, none])
    for entry in dataclasses.fields(some):
        np.testing.assert_array_equal(getattr(joined, entry.name), getattr(some, entry.name), entry.name)
        if isinstance(value := getattr(none, entry.name), np.ndarray):
            assert value.dtype == getattr(some, entry.name).dtype, entry.name


def test_row_ids_tell_conversations_apart_by_their_tokens(examples: list[Example]) -> None:
    """Prompt and response together: where one ends is the template's business."""
    conversation = TokenizedConversation((1, 2, 3), (4, 5), 1)
    same = TokenizedConversation((1, 2), (3, 4, 5), 1)
    other = TokenizedConversation((1, 2, 3), (5, 4), 1)
    item = dataclasses.replace(examples[0], tokens=TokenizedItem((conversation, same, other)))
    first, second, third = item.row_ids_R.tolist()
    assert first == second != third
    assert first == 1154554620491830073, "the same in every process, on every machine"


def test_half_precision_rounds_parameters_and_leaves_positions(tmp_path: Path, examples: list[Example]) -> None:
    workspace, recipe = Workspace(tmp_path), Recipe(str(tmp_path), features=FeaturesConfig(compute_dtype="bfloat16"))
    save_backbone(workspace, "backbone", new_backbone(ARCHITECTURE, 50, seed=0))
    backbone = placed_backbone(recipe, workspace, Rank())
    assert {parameter.dtype for parameter in backbone.parameters()} == {torch.bfloat16}
    assert {buffer.dtype for buffer in backbone.buffers()} == {torch.float32}, "rotary frequencies"
    features = extract_features(backbone, examples, ("a", "b"), pack_tokens=40)
    exact = extract_features(new_backbone(ARCHITECTURE, 50, seed=0), examples, ("a", "b"), pack_tokens=40)
    assert features.features_RD.dtype == np.float32
    np.testing.assert_allclose(features.features_RD, exact.features_RD, atol=0.1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_said_before_the_pass(tmp_path: Path) -> None:
    recipe = Recipe(str(tmp_path), features=FeaturesConfig(device="cuda"))
    with pytest.raises(InvalidRecipe, match="there is no GPU 1 on this machine"):
        placed_backbone(recipe, Workspace(tmp_path), Rank(1, 2, 1))


def labelled(number: int, words: int) -> LabelledItem:
    item = Item((Message("user", f"question {number}"),), ("word " * words,))
    nothing_B2 = np.zeros((0, 2), dtype=np.int64)
    return LabelledItem(item, ("source",), f"group {number}", np.array([[0.5]], dtype=np.float32), nothing_B2, ())


def plan(items: list[LabelledItem], shard_tokens: int) -> list[PlannedShard]:
    objective = Objective("a")
    recipe = Recipe("unused", features=FeaturesConfig(shard_tokens=shard_tokens))
    return plan_shards(Dataset(items, (objective,), 0.1), recipe, "key")


def test_shards_hold_every_item_once_and_in_order() -> None:
    items = [labelled(number, words=10 * number) for number in range(20)]
    shards = plan(items, shard_tokens=400)
    assert [one for shard in shards for one in shard.items] == items
    assert len(shards) > 3
    assert all(shard.estimated_tokens <= 400 or len(shard.items) == 1 for shard in shards)
    assert [(each.shard.index, each.shard.count) for each in shards] == [(i, len(shards)) for i in range(len(shards))]


def test_a_shard_names_everything_it_was_made_from() -> None:
    """Change any one thing of one item, and its shard is another one; its neighbours are not."""
    items = [labelled(number, words=50) for number in range(8)]
    before = [each.shard.items for each in plan(items, shard_tokens=150)]
    original = items[3]
    changes = {
        "item": Item(original.item.prompt, ("wort " * 50,)),
        "ratings_RK": np.array([[np.nan]], dtype=np.float32),
        "pairs_B2": np.array([[0, 0]]),
        "pair_sources": ("another",),
    }
    for name, value in changes.items():
        items[3] = dataclasses.replace(original, **{name: value})
        after = [each.shard.items for each in plan(items, shard_tokens=150)]
        assert [one != other for one, other in zip(before, after, strict=True)] == [False, True, False, False], name


def test_one_ahead_keeps_the_order_and_never_runs_further() -> None:
    started: list[int] = []

    def double(number: int) -> int:
        started.append(number)
        return 2 * number

    for step, result in enumerate(one_ahead(double, range(6))):
        assert result == 2 * step
        assert len(started) <= step + 2
    assert list(one_ahead(double, [])) == []


def test_one_ahead_hands_errors_on() -> None:
    with pytest.raises(ZeroDivisionError):
        list(one_ahead(lambda number: 1 // number, [1, 0, 1]))


def test_pairs_point_at_their_responses(examples: list[Example]) -> None:
    labels = join_labels(examples)
    assert labels.pairs_B2.tolist() == [[0, 1], [2, 4], [5, 6], [7, 10], [11, 13]]


def test_a_backbone_comes_back_rounded_as_it_was_stored(tmp_path: Path) -> None:
    backbone, workspace = new_backbone(ARCHITECTURE, 50, seed=0), Workspace(tmp_path)
    save_backbone(workspace, "backbone", backbone, torch.bfloat16)
    restored = restore_backbone(workspace, "backbone").decoder.state_dict()
    for name, tensor in backbone.decoder.state_dict().items():
        assert restored[name].dtype == torch.float32
        torch.testing.assert_close(restored[name], tensor.to(torch.bfloat16).float(), rtol=0, atol=0)


def test_the_same_seed_gives_the_same_backbone() -> None:
    first, second, other = (new_backbone(ARCHITECTURE, 50, seed).decoder.state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["embed_tokens.weight"], other["embed_tokens.weight"])


def test_packs_hold_every_item_once_within_the_budget() -> None:
    lengths = [5, 9, 2, 30, 4, 4, 1]
    packs = plan_packs(lengths, [6, 5, 4, 3, 2, 1, 0], token_budget=10)
    assert sorted(index for indices in packs for index in indices) == list(range(7))
    assert all(sum(lengths[index] for index in indices) <= 10 or len(indices) == 1 for indices in packs)
    assert [3] in packs, "an item over the budget is alone"


def test_epochs_need_not_be_whole_and_are_shuffled_anew() -> None:
    lengths = [10] * 100
    plan = plan_epochs(lengths, 2.5, token_budget=100, seed=0)
    assert len(plan) == 25
    assert sorted(index for indices in plan[:10] for index in indices) == list(range(100))
    assert plan[:10] != plan[10:20]
    assert plan == plan_epochs(lengths, 2.5, token_budget=100, seed=0)
