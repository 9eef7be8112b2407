"""Tokenizer, pack, backbone and heads together give the numbers of the one-by-one reference, in every layout."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from app.domain import Item, Message, Readout
from app.model.weights import load_reward_model
from app.pack_builder import pack_of
from app.text.tokenization import load_tokenizer
from tests.checkpoints import FAMILIES, write_armorm, write_classifier, write_own_folder
from tests.equivalence.reference import Messages, OneByOne

QUESTION = {"role": "user", "content": "What are some synonyms for the word beautiful?"}
PROMPTS: list[list[dict[str, str]]] = [
    [QUESTION],
    [{"role": "system", "content": "You are a poet.\n\nAnswer in verse."}, QUESTION],
    [QUESTION, {"role": "assistant", "content": "Pretty.\n"}, {"role": "user", "content": "  More of them, please!  "}],
    [{"role": "user", "content": "def add(first, second):\n    return first -\n"}],
    [{"role": "user", "content": "Schöne Grüße 你好 🙂 \u202e e\u0301"}],
]
RESPONSES = [
    "Handsome, stunning, wonderful, gorgeous, pretty.",
    "\n\n  ```python\n  return first + second\n  ```\n\n",
    " I can't help with that; there are 1,234 other things.\r\n\r\n\tSorry",
    "x",
    "你好，世界。" * 20,
]


def readouts(folder: Path, items: Sequence[tuple[Messages, Sequence[str]]]) -> list[Readout]:
    """Score all items in one pack with the service's own parts."""
    model = load_reward_model(folder, device="cpu", dtype="float32")
    tokenizer = load_tokenizer(
        folder,
        gating_token="end_of_turn" if model.info.has_gating else "last_prompt_token",
        max_conversation_tokens=model.info.max_conversation_tokens,
    )
    conversations = []
    for prompt, responses in items:
        messages = tuple(Message(turn["role"], turn["content"]) for turn in prompt)  # type: ignore[arg-type]
        conversations += tokenizer.encode(Item(messages, tuple(responses))).conversations
    return model.forward(pack_of(conversations)).readouts()


def assert_equal_to_reference(folder: Path) -> None:
    reference = OneByOne(folder)
    expected = [reference(prompt, response) for prompt in PROMPTS for response in RESPONSES]
    found = readouts(folder, [(prompt, RESPONSES) for prompt in PROMPTS])
    has_gating = expected[0].gating is not None
    for name in ("rewards", "gating", "coefficients", "score") if has_gating else ("rewards",):
        wanted = np.array([getattr(entry, name) for entry in expected])
        spread = wanted.std(axis=0).max()
        assert spread > 1e-2, "the checkpoint says the same of every text, so it tests nothing"
        assert np.abs(np.array([getattr(entry, name) for entry in found]) - wanted).max() < 1e-4 * spread, name


@pytest.mark.parametrize("tokenizer", ["llama3", "chatml"])
@pytest.mark.parametrize("shards", [1, 3])
def test_the_published_layout(tmp_path: Path, tokenizer: str, shards: int) -> None:
    assert_equal_to_reference(write_armorm(tmp_path / "armorm", tokenizer, shards=shards))


@pytest.mark.parametrize("num_labels", [1, 10])
@pytest.mark.parametrize("family", list(FAMILIES))
def test_sequence_classification(tmp_path: Path, family: str, num_labels: int) -> None:
    folder = write_classifier(tmp_path / family, family, num_labels, "chatml" if family == "qwen2" else "llama3")
    assert_equal_to_reference(folder)


def test_a_single_label_is_the_score_and_several_have_none(tmp_path: Path) -> None:
    one = readouts(write_classifier(tmp_path / "one", num_labels=1), [(PROMPTS[0], RESPONSES)])
    several = readouts(write_classifier(tmp_path / "ten", num_labels=10), [(PROMPTS[0], RESPONSES)])
    assert [readout.score for readout in one] == [float(readout.rewards[0]) for readout in one]
    assert [readout.score for readout in several] == [None] * len(RESPONSES)


def test_our_own_folder_with_intensity_heads(tmp_path: Path) -> None:
    folder = write_own_folder(tmp_path / "own")
    assert_equal_to_reference(folder)
    heads = load_file(folder / "moslim.safetensors")
    reference = OneByOne(folder)
    found = readouts(folder, [(PROMPTS[1], RESPONSES)])
    for response, readout in zip(RESPONSES, found, strict=True):
        features_D = reference.hidden_states(reference.render(PROMPTS[1], response)[0])[-1]
        for name, probabilities in readout.intensities.items():
            wanted = torch.softmax(heads[f"{name}.weight"] @ features_D + heads[f"{name}.bias"], dim=-1)
            assert np.abs(probabilities - wanted.numpy()).max() < 1e-5
        assert set(readout.intensities) == {"helpfulness", "honesty", "harmless"}


def test_half_precision_backbones_keep_their_heads_in_float32(tmp_path: Path) -> None:
    """A head in bfloat16 would lose three digits; the backbone's own rounding is far smaller than the spread."""
    folder = write_armorm(tmp_path / "armorm")
    model = load_reward_model(folder, device="cpu", dtype="bfloat16")
    assert {parameter.dtype for parameter in model.head.state_dict().values()} == {torch.float32}
    assert {parameter.dtype for parameter in model.backbone.parameters()} == {torch.bfloat16}


def test_a_wrong_head_is_noticed(tmp_path: Path) -> None:
    """The negative control: a transform used transposed, as is easily done, is far outside the tolerance."""
    folder = write_armorm(tmp_path / "armorm")
    reference = OneByOne(folder)
    reference.heads["reward_transform_matrix"] = reference.heads["reward_transform_matrix"].T
    found = [readout.score for readout in readouts(folder, [(PROMPTS[0], RESPONSES)])]
    wrong = [reference(PROMPTS[0], response).score for response in RESPONSES]
    assert np.abs(np.array(found) - np.array(wrong)).max() > 1e-2
