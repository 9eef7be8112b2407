"""The whole path on made-up rows with the tiny recipe: data to a folder that the server's loader serves."""

import dataclasses
import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from app.canary import check_canary, read_canary
from app.domain import Item, Message
from app.model.weights import load_reward_model
from app.pack_builder import pack_of
from app.text.tokenization import load_tokenizer
from tests.training.synthetic import write_data_folder
from training.__main__ import main
from training.artifacts import GatingFit, RegressionFit, RewardTransform, Workspace
from training.configs import Recipe, read_recipe
from training.data.objectives import VERBOSITY
from training.errors import BadExport, InvalidRecipe, MissingArtifact
from training.export_check import check_and_record
from training.feature_shards import load_features
from training.heads import head_of, scores_of
from training.pipeline import STAGES, run_stages, stage_keys
from training.results import GATED, MOST_PAIRS, Evaluation

TINY = Path(__file__).parents[2] / "training" / "recipes" / "tiny_cpu.toml"


def tiny_recipe(root: Path) -> Recipe:
    """The tiny recipe on the made-up rows, which give the best and the worst rating and none between."""
    recipe = read_recipe(TINY)
    most = dataclasses.replace(recipe.moslim.most_classes, helpfulness=2)
    return dataclasses.replace(
        recipe,
        threads=0,
        work_folder=str(root / "work"),
        data=dataclasses.replace(recipe.data, folder=str(root / "data")),
        moslim=dataclasses.replace(recipe.moslim, most_classes=most),
        export=dataclasses.replace(recipe.export, folder=str(root / "weights")),
    )


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A finished run."""
    root = tmp_path_factory.mktemp("run")
    write_data_folder(root / "data")
    recipe = tiny_recipe(root)
    run_stages("all", recipe)
    return recipe


@pytest.fixture
def workspace(recipe: Recipe) -> Workspace:
    return Workspace(Path(recipe.work_folder))


def test_the_folder_loads_and_its_known_answers_hold(recipe: Recipe) -> None:
    folder = Path(recipe.export.folder)
    model = load_reward_model(folder)
    rated, preferred = ("arena_bench-overall", "gptfuzz-harmlessness"), ("hh_rlhf_harmless_base", "pandalm_human")
    assert model.info.objective_names == (*rated, *(f"{source}-preferred" for source in preferred), VERBOSITY)
    tokenizer = load_tokenizer(folder, max_conversation_tokens=model.info.max_conversation_tokens)
    canary = read_canary(folder)
    assert canary is not None
    for dtype in ("float32", "bfloat16"):
        forward = load_reward_model(folder, dtype=dtype).forward
        check_canary(canary, tokenizer.encode, forward, dtype, model.info.objective_names)
    assert model.manifest.verbosity_objective == VERBOSITY
    assert model.manifest.gating is not None
    assert len(model.info.score_quantiles) == 101
    assert np.all(np.diff(model.info.score_quantiles) >= 0)


def test_served_scores_equal_those_of_training(recipe: Recipe, workspace: Workspace) -> None:
    """One readout: what the served folder says is what gating was trained on."""
    features = load_features(workspace)
    regression, transform = workspace.load(RegressionFit), workspace.load(RewardTransform)
    head = head_of(regression, transform, recipe.gating, workspace.load(GatingFit))
    trained_R = scores_of(head, features)
    model = load_reward_model(Path(recipe.export.folder), dtype="float32")
    output = model.head.readout(
        *(torch.from_numpy(array) for array in (features.features_RD, features.prompt_features_PD)),
        torch.from_numpy(features.prompt_of_response_R),
    )
    assert output.scores_R is not None
    np.testing.assert_allclose(output.scores_R.detach().numpy(), trained_R, atol=1e-5 * np.ptp(trained_R))


def test_it_learned_what_the_rows_say(recipe: Recipe) -> None:
    folder = Path(recipe.export.folder)
    tokenizer = load_tokenizer(folder, max_conversation_tokens=512)
    prompt = (Message("user", "Question 99: what do you know about bees?"),)
    item = Item(prompt, ("Of course, here is what I know about bees.", "No. Go away with your bees."))
    rewards_RK = load_reward_model(folder).forward(pack_of(tokenizer.encode(item).conversations)).rewards_RK
    assert np.all(rewards_RK[0, :4] > rewards_RK[1, :4])


def test_measured_results_are_in_the_card(recipe: Recipe, workspace: Workspace) -> None:
    results = Evaluation.read(workspace.path("evaluation") / "results.json")
    by_subset = {row.subset: row for row in results.method(GATED).subsets}
    assert by_subset["rmbench-code"].num_pairs == 27
    assert by_subset["rmbench-code"].num_units == 9, "styles of one item are averaged first"
    assert by_subset["pandalm_human"].num_pairs == 8
    card = (Path(recipe.export.folder) / "README.md").read_text()
    rows = [f"| {row.subset} | {row.section} | {row.num_pairs} | {row.accuracy:.3f}" for row in by_subset.values()]
    assert all(row in card for row in rows)
    assert results.notes[MOST_PAIRS] == "40"
    assert "at most 40 pairs of every subset" in card


def test_finished_stages_are_reused(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    run_stages("all", recipe)
    assert capsys.readouterr().out.split() == [word for stage in STAGES for word in (f"{stage.name}:", "reused")]


@pytest.mark.parametrize("lost", ["deleted", "replaced", "damaged"])
def test_an_exported_folder_that_is_gone_or_anothers_is_exported_and_measured_again(
    recipe: Recipe, capsys: pytest.CaptureFixture[str], lost: str
) -> None:
    folder = Path(recipe.export.folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    manifest = json.loads(before["manifest.json"])
    if lost == "deleted":
        shutil.rmtree(folder)
    elif lost == "replaced":
        manifest["provenance"]["recipe_sha256"] = "of another recipe"
        (folder / "manifest.json").write_text(json.dumps(manifest))
    else:
        (folder / "manifest.json").write_text("{")
    run_stages("all", recipe)
    printed = capsys.readouterr().out
    assert "gating: reused" in printed
    assert "export: done" in printed
    assert "evaluation: done" in printed
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {name for name, content in before.items() if after[name] != content} <= {"manifest.json"}, "its date alone"
    run_stages("all", recipe)
    assert capsys.readouterr().out.count("reused") == len(STAGES)


def test_a_changed_recipe_runs_again_what_it_changes_and_no_more(recipe: Recipe) -> None:
    keys = stage_keys(recipe)
    gating = dataclasses.replace(recipe, gating=dataclasses.replace(recipe.gating, steps=7))
    changed = {name for name, key in stage_keys(gating).items() if key != keys[name]}
    assert changed == {"gating", "export", "evaluation", "report"}
    data = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, max_pairs_per_source=7))
    assert all(key != keys[name] for name, key in stage_keys(data).items())


def test_a_stage_alone_needs_the_ones_before(recipe: Recipe) -> None:
    changed = dataclasses.replace(recipe, ridge=dataclasses.replace(recipe.ridge, strengths=(1.0,)))
    with pytest.raises(MissingArtifact, match="debias needs the stage ridge"):
        run_stages("debias", changed)
    with pytest.raises(InvalidRecipe, match="there is no stage fly; there are all, data, tokenizer"):
        run_stages("fly", recipe)


def test_an_export_that_differs_from_its_parts_is_refused(recipe: Recipe, workspace: Workspace) -> None:
    """The negative control of the comparison after export."""
    regression, transform = workspace.load(RegressionFit), workspace.load(RewardTransform)
    other = head_of(dataclasses.replace(regression, weight_KD=1.01 * regression.weight_KD), transform, recipe.gating)
    with pytest.raises(BadExport, match="differs from its parts"):
        check_and_record(Path(recipe.export.folder), workspace, other)


def test_the_command_line_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["all", str(tmp_path / "none.toml")]) == 1
    assert capsys.readouterr().err.startswith("InvalidRecipe: there is no recipe")
    assert main(["all", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"InvalidRecipe: {tmp_path} is a folder, not a recipe\n"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "work/ridge/facts.json"),
        SafetensorError("I/O error: No space left on device"),
    ],
)
def test_a_full_disk_is_one_line_that_names_what_failed(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(recipe: Recipe, workspace: Workspace) -> None:
        raise error

    write_data_folder(tmp_path / "data")
    monkeypatch.setattr("training.__main__.read_recipe", lambda _: tiny_recipe(tmp_path))
    (data, *others) = STAGES
    monkeypatch.setattr("training.pipeline.STAGES", (dataclasses.replace(data, run=fail), *others))
    assert main(["all", str(TINY)]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("data stopped; finished stages are kept: ")
    assert printed.endswith(f"{error}\n")
    assert printed.count("\n") == 1


def test_help_lists_the_stages_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = capsys.readouterr().out
    places = [printed.index(f"  {stage.name} ") for stage in STAGES]
    assert places == sorted(places)
