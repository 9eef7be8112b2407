"""The benchmarks run, check what they compare, and write what they measured. No timing is asserted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from app.model.weights import load_reward_model
from benchmarks.cpu_packing import packed_scores, packs_of
from benchmarks.padded import PaddedModel, padded_tokens
from benchmarks.random_checkpoint import LlamaSize, write_random_checkpoint
from benchmarks.workloads import best_of_n, mixed_lengths, random_pool
from tests.conftest import REPOSITORY

SIZE = LlamaSize(layers=2, width=64, vocabulary=500)


def test_packed_and_padded_scores_are_equal(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path, SIZE)
    model = load_reward_model(tmp_path, device="cpu", dtype="float32")
    padded = PaddedModel(tmp_path, model.head, torch.float32)
    pool = random_pool(SIZE.vocabulary, count=40)
    for workload in (best_of_n(pool, 5), mixed_lengths(pool, 7)):
        expected = padded.scores(workload.conversations, batch_size=3)
        assert expected.std() > 0
        found = packed_scores(model, workload.conversations, token_budget=2048)
        assert torch.allclose(found, expected, rtol=0, atol=1e-4 * float(expected.std()))


def test_tokens_are_counted_as_computed() -> None:
    pool = random_pool(SIZE.vocabulary, count=40)
    shared = best_of_n(pool, 16).conversations
    responses = sum(len(conversation.response_ids) for conversation in shared)
    assert sum(pack.num_tokens for pack in packs_of(shared, 100_000)) == 256 + responses
    assert padded_tokens(shared, 16) == 16 * max(conversation.num_tokens for conversation in shared)
    assert {conversation.prefix_ids for conversation in shared} == {shared[0].prefix_ids}
    assert len(shared[0].prefix_ids) == 256
    assert all(20 <= len(conversation.response_ids) <= 200 for conversation in shared)


def test_packs_keep_every_conversation_within_the_budget() -> None:
    conversations = random_pool(SIZE.vocabulary, count=40)
    budget = max(conversation.num_tokens for conversation in conversations)
    packs = packs_of(conversations, budget)
    assert len(packs) > 1
    assert sum(pack.num_responses for pack in packs) == 40
    assert all(pack.num_tokens <= budget for pack in packs)


def test_a_conversation_over_the_budget_is_not_lost() -> None:
    conversations = random_pool(SIZE.vocabulary, count=40)
    lengths = sorted(conversation.num_tokens for conversation in conversations)
    packs = packs_of(conversations, lengths[20])
    assert sum(pack.num_responses for pack in packs) == 40
    assert max(pack.num_tokens for pack in packs) == lengths[-1]


@pytest.mark.slow
def test_the_command_writes_its_table(tmp_path: Path) -> None:
    small = ["--layers", "2", "--width", "64", "--mixed", "4", "--rounds", "1", "--data", str(tmp_path / "none")]
    subprocess.run(
        [sys.executable, "-m", "benchmarks.cpu_packing", *small, "--out", str(tmp_path)],
        cwd=REPOSITORY,
        capture_output=True,
        check=True,
        timeout=300,
    )
    written = json.loads((tmp_path / "cpu_packing.json").read_text())
    assert [row["workload"] for row in written["comparisons"]] == [
        "best-of-16",
        "mixed lengths (4)",
        "mixed lengths (4)",
    ]
    assert all(row["largest_score_difference"] < 1e-4 for row in written["comparisons"])
    assert {"processor", "cores", "versions", "commit"} <= written["machine"].keys()
    assert "| best-of-16 |" in (tmp_path / "cpu_packing.md").read_text()
