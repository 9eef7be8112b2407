"""Recipes of policies, and the command line that runs them."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from training.errors import InvalidRecipe
from training.policy import __main__ as command
from training.policy.configs import PolicyRecipe, read_policy_recipe
from training.policy.measuring_configs import PolicyReportConfig

ROOT = Path(__file__).resolve().parents[3]
RECIPES = sorted(path for path in (ROOT / "training" / "recipes").glob("*.toml") if "[prompts]" in path.read_text())


def recipe_of(folder: Path, text: str) -> PolicyRecipe:
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return read_policy_recipe(path)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_that_is_shipped_is_understood(path: Path) -> None:
    assert read_policy_recipe(path).work_folder == f"runs/{path.stem}"


def test_the_tiny_recipe_is_among_them() -> None:
    assert "policy_tiny" in {path.stem for path in RECIPES}


def test_what_is_said_is_set_and_the_rest_has_defaults(tmp_path: Path) -> None:
    recipe = recipe_of(
        tmp_path, 'work_folder = "w"\n[policy]\nmodel = "m"\nlora = { rank = 8 }\n[prompts]\nfiles = ["a", "b"]\n'
    )
    assert recipe.policy.lora.rank == 8
    assert recipe.policy.lora.alpha == 32.0
    assert recipe.prompts.files == ("a", "b")
    assert recipe.sampling.backend == "transformers"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed = 1", "the key work_folder is missing"),
        ('work_folder = "w"\n[sampling]\nheat = 1.0', "sampling: unknown key heat; known are max_new_tokens"),
        ('work_folder = "w"\n[servce]\n', "unknown key servce"),
        ('work_folder = "w"\n[sampling]\nbackend = "vllm"', "sampling.backend must be one of transformers, openai"),
        ('work_folder = "w"\n[sampling]\nbackend = "openai"', "needs sampling.url and sampling.model"),
        ('work_folder = "w"\n[sampling]\ntemperature = 0.0', "sampling.temperature must be positive"),
        ('work_folder = "w"\n[service]\nurl = "localhost"', "service.url must begin with http"),
        ('work_folder = "w"\n[policy]\ndevice = "tpu"', "policy.device must be one of cpu, cuda"),
        ('work_folder = "w"\n[policy]\nlora = { rank = -1 }', "rank must not be negative"),
        ('work_folder = "w"\n[prompts]\nfiles = []', "prompts.files must name one"),
        ('work_folder = "w"\n[prompts]\nevaluation_share = 1.0', "must lie between 0 and 1"),
        ('work_folder = "w"\n[tiny]\nvocabulary_size = 10', "must be at least 300"),
        ('work_folder = "w"\n[sft]\nschedule = "step"', "sft.schedule must be one of cosine, linear"),
        ('work_folder = "w"\n[evaluation]\nmax_prompts = 0', "evaluation: counts must be positive"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InvalidRecipe, match=said.replace(".", r"\.")):
        recipe_of(tmp_path, text)


def test_a_mistake_is_one_line_and_exit_code_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["tiny", str(tmp_path / "none.toml")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("InvalidRecipe: there is no recipe")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [(KeyboardInterrupt(), 130, "goes on"), (OSError("disk full"), 1, "tiny stopped; what it had written is kept")],
)
def test_what_stops_a_stage_is_said_in_a_line(
    error: BaseException,
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stop(*_: object) -> None:
        raise error

    path = tmp_path / "recipe.toml"
    path.write_text('work_folder = "w"')
    monkeypatch.setattr(command.PolicyStage, "run", stop)
    monkeypatch.setattr(command, "prepare", lambda _: None)
    assert command.main(["tiny", str(path)]) == code
    printed = capsys.readouterr().err
    assert said in printed
    assert printed.count("\n") == 1


def test_stages_run_in_their_order_under_another_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, int, str]] = []

    def note(stage: command.PolicyStage, recipe: PolicyRecipe) -> None:
        ran.append((stage.name, recipe.seed, recipe.work_folder))

    path = tmp_path / "recipe.toml"
    path.write_text('work_folder = "w"')
    monkeypatch.setattr(command.PolicyStage, "run", note)
    monkeypatch.setattr(command, "prepare", lambda _: None)
    assert command.main(["tiny", "sft", str(path), "--seed", "3"]) == 0
    assert command.main(["ppo", str(path)]) == 0
    assert ran == [("tiny", 3, "w-seed-3"), ("sft", 3, "w-seed-3"), ("ppo", 0, "w")]


def test_another_seed_changes_no_other_folder() -> None:
    recipe = PolicyRecipe("w", report=PolicyReportConfig(runs=("x = w-seed-0, w-seed-1",)))
    assert command.seeded(recipe, 3) == replace(recipe, seed=3, work_folder="w-seed-3")


def test_what_is_stopped_names_the_stages_to_go_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop_at_sft(stage: command.PolicyStage, _: PolicyRecipe) -> None:
        if stage.name == "sft":
            raise KeyboardInterrupt

    path = tmp_path / "recipe.toml"
    path.write_text('work_folder = "w"')
    monkeypatch.setattr(command.PolicyStage, "run", stop_at_sft)
    monkeypatch.setattr(command, "prepare", lambda _: None)
    assert command.main(["tiny", "sft", "ppo", str(path)]) == 130
    assert capsys.readouterr().err == "stopped; `sft ppo` goes on from what is kept\n"


def test_help_lists_every_stage_and_loads_no_torch() -> None:
    check = (
        "import sys, contextlib, training.policy.__main__ as command\n"
        "with contextlib.suppress(SystemExit): command.main(['--help'])\n"
        "print([name for name in ('torch', 'trl', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True)
    for stage in command.STAGES:
        assert f"  {stage.name} " in done.stdout
        assert stage.purpose in done.stdout
    assert done.stdout.endswith("[]\n")


@pytest.mark.parametrize("stage", command.STAGES, ids=lambda stage: stage.name)
def test_every_stage_has_its_function(stage: command.PolicyStage) -> None:
    module = (ROOT / "training" / "policy" / f"{stage.module}.py").read_text(encoding="utf-8")
    assert f"\ndef {stage.function}(recipe: PolicyRecipe) -> None:" in module
