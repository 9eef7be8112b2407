"""Fine-tuning through TRL: what is learned, that a killed run ends as one that was not, and what is refused."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from app.domain import Message
from training.errors import DivergedTraining, InvalidData, InvalidRecipe
from training.logs import read_log
from training.policy import sft_progress
from training.policy.configs import AdaptersConfig, PolicyRecipe, SftConfig, TinyConfig
from training.policy.policy import Policy
from training.policy.sft import IGNORED, examples_of, fine_tune, mean_loss
from training.policy.sft_progress import last_checkpoint, resumes_only
from training.policy.sft_rows import SftRow, read_sft_rows
from training.policy.tiny import tiny_policy

pytestmark = pytest.mark.filterwarnings("ignore")  # of TRL, transformers and datasets among themselves
WORDS = ("yes", "no", "perhaps", "surely")
ROWS = [SftRow((Message("user", f"question {n}"),), WORDS[n % 4]) for n in range(48)]
CONFIG = SftConfig(epochs=2, batch_size=8, learning_rate=1e-2, warmup_steps=1, max_tokens=64, checkpoint_every_steps=4)


def new_policy() -> Policy:
    sizes = TinyConfig(vocabulary_size=300, hidden_size=16, intermediate_size=32, attention_heads=2)
    return tiny_policy([*WORDS, "question"], sizes, seed=0)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return dict(Policy.load(str(folder)).model.state_dict())


def test_only_responses_and_what_closes_them_are_learned() -> None:
    policy = new_policy()
    row = SftRow((Message("system", "s"), Message("user", "why")), "yes")
    (example,) = examples_of([row], policy, max_tokens=100)
    learned = [token for token in example["labels"] if token != IGNORED]
    assert policy.tokenizer.decode(learned) == "yes<|im_end|>"
    assert example["input_ids"] == policy.encode(row.prompt) + learned
    assert len(example["labels"]) == len(example["input_ids"])
    rendered = policy.template.conversations(row.prompt, [row.response])[0]
    assert rendered.startswith(policy.tokenizer.decode(example["input_ids"]))


def test_long_rows_are_left_out() -> None:
    policy = new_policy()
    long = SftRow((Message("user", "word " * 50),), "yes")
    assert examples_of([long, ROWS[0]], policy, max_tokens=64) == examples_of([ROWS[0]], policy, max_tokens=64)


def test_the_loss_measured_is_that_of_one_sequence_at_a_time() -> None:
    policy = new_policy()
    examples = examples_of([*ROWS[:5], SftRow(ROWS[0].prompt * 3, "a much longer response")], policy, 200)
    losses = []
    for example in examples:
        logits_TV = policy.model(torch.tensor([example["input_ids"]])).logits[0, :-1]
        labels_T = torch.tensor(example["labels"][1:])
        learned_T = labels_T != IGNORED
        losses += functional.cross_entropy(logits_TV[learned_T], labels_T[learned_T], reduction="none").tolist()
    assert mean_loss(policy, examples, batch_size=4) == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert math.isnan(mean_loss(policy, []))


def test_fine_tuning_lowers_the_loss_and_leaves_a_plain_folder(tmp_path: Path) -> None:
    policy = new_policy()
    examples = examples_of(ROWS, policy, 64)
    before = mean_loss(policy, examples)
    fine_tune(policy, ROWS, CONFIG, tmp_path / "sft", seed=0)
    after = mean_loss(policy, examples)
    assert after < before - 1
    assert mean_loss(Policy.load(str(tmp_path / "sft")), examples) == pytest.approx(after, rel=1e-6)
    assert json.loads((tmp_path / "sft" / "config.json").read_text())["use_cache"]
    assert not list(tmp_path.glob("*checkpoints*"))
    log = read_log(tmp_path / "logs" / "sft.csv")
    assert [row["step"] for row in log] == [1, 10]
    assert log[-1]["loss"] < log[0]["loss"]


def test_a_killed_run_ends_as_one_that_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fine_tune(new_policy(), ROWS, CONFIG, tmp_path / "whole", seed=3)
    told = sft_progress.ShowsProgress.on_step_end

    def killed(self: Any, args: Any, state: Any, control: Any, **rest: Any) -> None:
        told(self, args, state, control, **rest)
        if state.global_step == 7:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sft_progress.ShowsProgress, "on_step_end", killed)
        with pytest.raises(KeyboardInterrupt):
            fine_tune(new_policy(), ROWS, CONFIG, tmp_path / "sft", seed=3)
    checkpoint = last_checkpoint(tmp_path / "sft_checkpoints")
    assert checkpoint is not None
    assert checkpoint.name == "checkpoint-4"
    taken: list[int] = []
    monkeypatch.setattr(
        sft_progress.ShowsProgress, "on_step_begin", lambda _, __, state, ___, **____: taken.append(state.global_step)
    )
    fine_tune(new_policy(), ROWS, CONFIG, tmp_path / "sft", seed=3)
    assert taken[0] == 4, "it went on from its checkpoint"
    expected, got = tensors(tmp_path / "whole"), tensors(tmp_path / "sft")
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_checkpoints_of_another_run_are_thrown_away(tmp_path: Path) -> None:
    policy, state = new_policy(), tmp_path / "checkpoints"
    examples = examples_of(ROWS, policy, 64)
    kept = state / "checkpoint-4"

    def stays(examples: list[dict[str, list[int]]], policy: Policy = policy, seed: int = 0) -> bool:
        kept.mkdir(parents=True, exist_ok=True)
        resumes_only(state, policy, examples, CONFIG, seed)
        return kept.exists()

    resumes_only(state, policy, examples, CONFIG, seed=0)
    assert stays(examples)
    assert not stays(examples[:-1])
    assert not stays(examples)
    assert stays(examples)
    assert not stays(examples, seed=1)
    other = new_policy()
    other.model.lm_head.weight.data.add_(1.0)
    assert stays(examples, seed=1)
    assert not stays(examples, other, seed=1)


def test_a_checkpoint_torn_by_a_kill_is_not_used(tmp_path: Path) -> None:
    for step, content in ((2, "{}"), (4, "{}"), (12, '{"half'), (16, None)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if content is not None:
            (folder / "trainer_state.json").write_text(content)
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-4"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "checkpoint-4"]


def test_adapters_alone_are_trained_and_merged_into_what_is_saved(tmp_path: Path) -> None:
    start = new_policy()
    lora = AdaptersConfig(rank=2, target_modules=("q_proj", "v_proj"))
    policy = new_policy().with_adapters(lora)
    fine_tune(policy, ROWS, CONFIG, tmp_path / "sft", seed=0)
    before, after = dict(start.model.state_dict()), tensors(tmp_path / "sft")
    changed = {name.split(".")[-2] for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys()
    assert changed == {"q_proj", "v_proj"}
    left = [name for name, _ in policy.model.named_parameters() if "lora_" in name]
    assert left, "saving leaves the policy as it was"


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    policy = new_policy()
    policy.model.lm_head.weight.data[:, 0] = float("nan")
    with pytest.raises(DivergedTraining):
        fine_tune(policy, ROWS, CONFIG, tmp_path / "sft", seed=0)
    assert not (tmp_path / "sft").exists()


def test_nothing_to_learn_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="none of 48 rows"):
        fine_tune(new_policy(), ROWS, SftConfig(max_tokens=3), tmp_path / "sft", seed=0)


def write_data(folder: Path) -> SftConfig:
    ask = [{"role": "user", "content": "ask"}]
    rows = {
        "ratings/rated": [
            {"split": "train", "messages": ask, "response": " rated "},
            {"split": "train", "messages": ask, "response": "rated"},
            {"split": "test", "messages": ask, "response": "held out"},
            {"split": "train", "messages": ask, "response": "far too long a response"},
            {"split": "train", "messages": ask, "response": ""},
        ],
        "preferences/pairs": [{"split": "train", "messages": ask, "chosen": "better", "rejected": "worse"}],
    }
    for name, lines in rows.items():
        path = folder / f"{name}.jsonl"
        path.parent.mkdir()
        path.write_text("\n".join(map(json.dumps, lines)))
    return SftConfig(folder=str(folder), max_response_characters=10)


def test_chosen_and_rated_responses_of_the_train_split_are_read_once(tmp_path: Path) -> None:
    config = write_data(tmp_path)
    assert {row.response for row in read_sft_rows(config)} == {"rated", "better"}
    assert len(read_sft_rows(config)) == 2
    only = SftConfig(folder=config.folder, sources=("pairs",))
    assert [row.response for row in read_sft_rows(only)] == ["better"]
    fewer = SftConfig(folder=config.folder, max_rows=1)
    assert read_sft_rows(fewer) == read_sft_rows(SftConfig(folder=config.folder))[:1]


def test_a_source_that_is_not_there_is_named(tmp_path: Path) -> None:
    config = write_data(tmp_path)
    with pytest.raises(InvalidRecipe, match=r"no other; there are pairs, rated"):
        read_sft_rows(SftConfig(folder=config.folder, sources=("other",)))
    with pytest.raises(InvalidData, match="no row is left"):
        read_sft_rows(SftConfig(folder=config.folder, max_response_characters=1))


def test_the_recipe_has_what_the_paper_trains_with() -> None:
    config = PolicyRecipe("w").sft
    assert (config.learning_rate, config.schedule, config.warmup_steps) == (1e-5, "cosine", 20)
