"""A wrong weights folder never becomes a model, and stops the start: one clear line names the tensor or the file."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from app.errors import InvalidWeights
from app.loading import load_checked_engine
from app.model.weights import load_reward_model
from app.settings import Settings
from app.text.tokenization import load_tokenizer
from tests.checkpoints import write_armorm
from tests.conftest import REPOSITORY
from tests.model.spoiling import LAYOUTS, Wrong, entries, removed, replaced
from tests.model.wrong_checkpoints import WRONG
from tests.model.wrong_details import WRONG_DETAILS

STARTED_WITH = (
    "missing regression layer",
    "extra gating layer",
    "renamed regression layer",
    "an objective too few",
    "integer tensor",
    "file cut short",
    "pickle only",
    "absent shard",
    "digest of the tensors",
    "manifest with an unknown key",
    "manifest with an objective too few",
)
"""One of each kind: a start takes a second, and the table above has them all."""


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_each_layout_is_sound_before_it_is_spoilt(tmp_path: Path, layout: str) -> None:
    load_reward_model(LAYOUTS[layout](tmp_path / layout), device="cpu", dtype="float32")


@pytest.mark.parametrize("wrong", [*WRONG, *WRONG_DETAILS], ids=lambda wrong: wrong.what.replace(" ", "-"))
def test_it_is_refused_in_one_line_that_names_the_fault(tmp_path: Path, wrong: Wrong) -> None:
    folder = LAYOUTS[wrong.layout](tmp_path / "weights")
    wrong.spoil(folder)
    with pytest.raises(InvalidWeights) as caught:
        load_reward_model(folder, device="cpu", dtype="float32")
    message = str(caught.value)
    assert_one_line_names(message, wrong.named)
    assert not (folder / "opened").exists(), "a pickle was opened"


def assert_one_line_names(message: str, named: tuple[str, ...]) -> None:
    assert len(message.splitlines()) == 1
    assert len(message) < 300
    for name in named:
        assert name in message


@pytest.mark.parametrize("file", ["tokenizer.json", "chat_template.jinja"])
def test_a_folder_without_tokenizer_or_template_is_refused(tmp_path: Path, file: str) -> None:
    folder = write_armorm(tmp_path / "weights")
    removed(file)(folder)
    with pytest.raises(InvalidWeights) as caught:
        load_tokenizer(folder, max_conversation_tokens=8192)
    assert len(str(caught.value).splitlines()) == 1
    assert file.removesuffix(".json").removesuffix(".jinja").replace("_", " ") in str(caught.value)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidWeights, match="nowhere"):
        load_reward_model(tmp_path / "nowhere")


def test_numbers_that_half_precision_cannot_hold_are_refused(tmp_path: Path) -> None:
    folder = write_armorm(tmp_path / "weights")
    replaced("model.norm.weight", lambda row: row * 1e6)(folder)
    load_reward_model(folder, device="cpu", dtype="bfloat16")
    with pytest.raises(InvalidWeights, match=r"model.norm.weight holds NaN or infinity in float16"):
        load_reward_model(folder, device="cpu", dtype="float16")


def test_a_tokenizer_beyond_the_embedding_is_refused(tmp_path: Path) -> None:
    """Else the first text with such a token would fail its whole pack, and on CUDA the process."""
    folder = write_armorm(tmp_path / "weights")
    rows = json.loads((folder / "config.json").read_text())["vocab_size"] - 1
    replaced("model.embed_tokens.weight", lambda held: held[:rows])(folder)
    entries("config.json", lambda config: config.update(vocab_size=rows, pad_token_id=0))(folder)
    with pytest.raises(InvalidWeights, match=f"up to {rows}.*only {rows} tokens"):
        load_checked_engine(Settings(weights=str(folder), device="cpu"))


@pytest.mark.slow
def test_each_kind_stops_the_start_in_one_line(tmp_path: Path) -> None:
    started = [wrong for wrong in WRONG if wrong.what in STARTED_WITH]
    assert len(started) == len(STARTED_WITH)
    folders = [LAYOUTS[wrong.layout](tmp_path / str(number)) for number, wrong in enumerate(started)]
    for wrong, folder in zip(started, folders, strict=True):
        wrong.spoil(folder)
    tokenless = write_armorm(tmp_path / "tokenless")
    removed("tokenizer.json")(tokenless)
    finished = subprocess.run(
        [sys.executable, "-m", "tests.model.serve_each", *map(str, folders), str(tokenless)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    endings = [json.loads(line) for line in finished.stdout.splitlines()]
    named = [wrong.named for wrong in started]
    for ending, names in zip(endings, [*named, ("tokenizer.json",)], strict=True):
        assert ending["code"] not in (0, None), ending
        assert_one_line_names(ending["written"].splitlines()[-1], names)
    assert not list(tmp_path.glob("*/opened")), "a pickle was opened"
