"""The evaluation stage on the tiny pipeline: every field of results.json, scores as served, and a kept forward pass."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from app.domain import Item, Message
from app.model.manifest import read_manifest
from app.model.moslim import MOSLIM_FILE
from app.model.weights import load_reward_model
from app.pack_builder import pack_of
from app.packing import PackOutput
from app.text.tokenization import load_tokenizer
from tests.training.synthetic import question, write_data_folder, write_rows
from tests.training.test_pipeline import tiny_recipe
from training import evaluation_forward, intensity_rows
from training.artifacts import INTENSITY_FEATURES, Workspace
from training.configs import EvaluationConfig, Recipe
from training.data.jsonl import data_files, read_rows
from training.data.sources import TEST
from training.errors import MissingArtifact, StaleArtifact
from training.evaluation import measure, run
from training.evaluation_forward import distinct_keys, forward_of
from training.export_check import largest_difference
from training.feature_shards import load_features
from training.inference import Encode, encoder
from training.intensity_rows import TracedRows
from training.pipeline import run_stages, stage_keys
from training.results import BRADLEY_TERRY, FILE_NAME, GATED, LENGTH, METHODS, OWN_TRAINED_ON, Evaluation


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A finished run that also measures pairs of its own."""
    root = tmp_path_factory.mktemp("run")
    write_data_folder(root / "data")
    own = root / "own.jsonl"
    row = {"messages": question("cats", 7), "chosen": "Of course, cats are lovely.", "rejected": "No. Go away."}
    own.write_text(json.dumps(row) + "\n")
    recipe = tiny_recipe(root)
    optimiser = dataclasses.replace(recipe.moslim.optimiser, epochs=60.0, learning_rate=3e-2)
    recipe = dataclasses.replace(
        recipe,
        evaluation=EvaluationConfig(pairs=(str(own),), bootstrap_draws=200),
        # Two levels: the made-up ratings are all or nothing.
        moslim=dataclasses.replace(recipe.moslim, data_type=2, optimiser=optimiser),
    )
    run_stages("all", recipe)
    return recipe


@pytest.fixture
def workspace(recipe: Recipe) -> Workspace:
    return Workspace(Path(recipe.work_folder), stage_keys(recipe))


@pytest.fixture
def results(workspace: Workspace) -> Evaluation:
    return Evaluation.read(workspace.path("evaluation") / FILE_NAME)


def test_own_pairs_whose_prompt_was_trained_on_are_noted(recipe: Recipe, results: Evaluation) -> None:
    """The one pair's prompt is of the train split."""
    assert results.notes[OWN_TRAINED_ON] == "1"
    assert "1 have a prompt that was trained on" in (Path(recipe.export.folder) / "README.md").read_text()


def test_every_field_is_measured(results: Evaluation) -> None:
    empty = [entry.name for entry in dataclasses.fields(results) if not getattr(results, entry.name)]
    assert empty == []
    assert [each.method for each in results.methods] == list(METHODS)
    assert {each.subset for each in results.methods[0].subsets} == {
        "pandalm_human",
        "hh_rlhf_harmless_base",
        "llmbar-natural",
        "rmbench-code",
        "own.jsonl",
    }
    assert [table.benchmark for table in results.methods[0].tables] == ["Benchmarks", "Own pairs"]
    assert {each.name for each in results.percentiles} == {"score", *results.objectives}
    assert {each.measured_on for each in results.probabilities} == {"Test pairs", "Chat Hard", "Reasoning", "Own pairs"}
    assert {each.kind for each in results.gating} == {"section", "subset", "ratings"}
    assert all(len(each.gating) == len(results.objectives) for each in results.gating)
    assert all(sum(each.gating) == pytest.approx(1.0, abs=1e-4) for each in results.gating)


def test_every_method_has_the_same_pairs(results: Evaluation) -> None:
    counts = {tuple((row.subset, row.num_pairs) for row in each.subsets) for each in results.methods}
    assert len(counts) == 1
    for each in results.methods:
        assert each.test_mean is not None
        assert each.test_mean.num_pairs == 16


def test_the_tiny_model_beats_length_and_says_so_paired(results: Evaluation) -> None:
    (macro,) = [each for each in results.paired if (each.baseline, each.measured_on) == (LENGTH, "macro mean")]
    assert macro.by_pair.low > 0
    assert results.method(BRADLEY_TERRY).test_mean == results.method(GATED).test_mean, "polite against rude is easy"


def test_ratings_of_the_test_split_are_predicted(results: Evaluation) -> None:
    fits = {fit.objective: fit for fit in results.fits}
    assert fits["gptfuzz-harmlessness"].num_ratings == fits["arena_bench-overall"].num_ratings == 16
    assert (fits["gptfuzz-harmlessness"].spearman or 0) > 0.5
    assert fits["pandalm_human-preferred"].num_ratings == 16
    assert 48 < fits["verbosity"].num_ratings <= 64, "every distinct response of two sources and two comparisons"


def test_scores_are_those_that_are_served(recipe: Recipe, workspace: Workspace) -> None:
    folder = Path(recipe.export.folder)
    measurement = measure(recipe, workspace)
    model = load_reward_model(folder)
    tokenizer = load_tokenizer(folder, max_conversation_tokens=model.info.max_conversation_tokens)
    for (prompt, response), row in list(measurement.rows.items())[::7]:
        item = Item(prompt, (response,))
        served = model.forward(pack_of(tokenizer.encode(item).conversations))
        assert served.scores_R is not None
        assert measurement.forward.scores_R[row] == pytest.approx(served.scores_R[0], rel=1e-4, abs=1e-5)
        np.testing.assert_allclose(measurement.forward.rewards_RK[row], served.rewards_RK[0], rtol=1e-4, atol=1e-5)
        assert measurement.forward.response_tokens_R[row] == len(tokenizer.encode(item).conversations[0].response_ids)


def test_every_response_has_the_gating_of_its_own_prompt(recipe: Recipe, workspace: Workspace) -> None:
    """Over many packs, score = Σ coefficients · rewards holds for every response."""
    folder = Path(recipe.export.folder)
    manifest = read_manifest(folder)
    assert manifest is not None
    keys = list(measure(recipe, workspace).rows)
    forward = forward_of(folder, manifest, keys, pack_tokens=256)
    coefficients_RK = forward.coefficients_PK[forward.prompt_of_response_R]
    explained_R = (coefficients_RK * forward.rewards_RK).sum(axis=-1)
    np.testing.assert_allclose(explained_R, forward.scores_R, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        coefficients_RK, forward.gating_PK[forward.prompt_of_response_R] @ forward.transform_KK.T, rtol=1e-4, atol=1e-5
    )
    assert len(np.unique(forward.gating_PK.round(6), axis=0)) > 1, "prompts differ, or this shows nothing"


def test_the_forward_pass_is_kept_while_folder_and_responses_are_the_same(
    recipe: Recipe, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a new pass")

    monkeypatch.setattr(evaluation_forward, "forward_of", refuse)
    before = (workspace.path("evaluation") / FILE_NAME).read_text()
    run(recipe, workspace)
    assert (workspace.path("evaluation") / FILE_NAME).read_text() == before
    more = dataclasses.replace(recipe, evaluation=dataclasses.replace(recipe.evaluation, pairs=()))
    with pytest.raises(AssertionError, match="a new pass"):
        measure(more, workspace)
    manifest = read_manifest(Path(recipe.export.folder))
    assert manifest is not None
    other = dataclasses.replace(manifest, sha256={"model.safetensors": "another"})
    assert evaluation_forward.digest_of(other, ()) != evaluation_forward.digest_of(manifest, ())
    assert evaluation_forward.forward_digest(other, ()) != evaluation_forward.forward_digest(manifest, ())


def test_other_intensity_heads_are_other_weights_but_need_no_new_pass(
    recipe: Recipe, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(recipe.export.folder)
    manifest = read_manifest(folder)
    assert manifest is not None
    assert MOSLIM_FILE in manifest.sha256
    other = dataclasses.replace(manifest, sha256=dict(manifest.sha256) | {MOSLIM_FILE: "another"})
    assert evaluation_forward.digest_of(other, ()) != evaluation_forward.digest_of(manifest, ())
    keys = list(measure(recipe, workspace).rows)
    monkeypatch.setattr(evaluation_forward, "forward_of", lambda *_: pytest.fail("a new pass"))
    evaluation_forward.load_or_run(workspace, folder, other, keys, 512)


def test_intensity_heads_are_measured_on_the_test_split(recipe: Recipe, results: Evaluation) -> None:
    """The two sources of ratings stand for a head each; politeness is what both rate."""
    found = results.intensities
    assert found is not None
    assert found.shipped is not None
    assert (found.shipped.name, found.shipped.classes) == ("2 (2/–/2)", (2, 0, 2))
    assert [(head.head, head.accuracy.num_rows) for head in found.shipped.heads] == [
        ("helpfulness", 16),
        ("harmless", 16),
    ]
    assert all(head.balanced.value > 0.8 for head in found.shipped.heads)
    joint = next(each for each in found.variants if (each.data_type, each.loss) == (2, "joint"))
    assert joint.preference is not None
    assert joint.preference.num_rows == 32
    assert [(each.head, each.source, sum(each.train), each.test) for each in found.rows] == [
        ("helpfulness", "arena_bench_gpt4", 60, (8, 8)),
        ("harmless", "gptfuzz_harmless_human", 60, (8, 8)),
    ]
    assert "| harmless |" in (Path(recipe.export.folder) / "README.md").read_text()


def test_test_rows_decide_no_baseline(recipe: Recipe, workspace: Workspace, tmp_path: Path) -> None:
    """Chosen and rejected change places in the test split and in the benchmarks: every description stays the same."""
    before = measure(recipe, workspace)
    poisoned = write_data_folder(tmp_path / "data")
    swap(poisoned / "preferences", splits=("test",))
    swap(poisoned / "benchmark", splits=(None,))
    changed = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, folder=str(poisoned)))
    after = measure(changed, Workspace(workspace.root))
    assert [each.description for each in after.methods] == [each.description for each in before.methods]
    single = [found.evaluation(50).methods[1].test_mean for found in (before, after)]
    assert single[0] is not None
    assert single[1] is not None
    assert single[1].value == pytest.approx(1 - single[0].value), "the poison did reach what is measured"


def swap(folder: Path, splits: tuple[str | None, ...]) -> None:
    for path in data_files(folder).values():
        rows = [dict(row) for row in read_rows(path, ())]
        for row in rows:
            if row.get("split") in splits:
                row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
        write_rows(path, rows)


def test_a_response_over_the_limit_is_left_out_and_takes_no_neighbour_along(recipe: Recipe) -> None:
    folder = Path(recipe.export.folder)
    manifest = read_manifest(folder)
    assert manifest is not None
    prompt = (Message("user", "Question?"),)
    keys = distinct_keys([(prompt, "Gladly."), (prompt, "words " * 3000), (prompt, "No."), (prompt, "Gladly.")])
    assert len(keys) == 3
    forward = forward_of(folder, manifest, keys, pack_tokens=512)
    assert forward.is_scored_N.tolist() == [1, 0, 1]
    assert forward.rows(keys) == {(prompt, "Gladly."): 0, (prompt, "No."): 1}
    assert [len(ids) for ids in forward.token_ids()] == forward.response_tokens_R.tolist()


def test_one_tokenizer_is_loaded_however_many_responses_are_over_the_limit(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(recipe.export.folder)
    manifest = read_manifest(folder)
    assert manifest is not None
    loaded: list[Path] = []

    def counted(folder: Path, limit: int) -> Encode:
        loaded.append(folder)
        return encoder(folder, limit)

    monkeypatch.setattr(evaluation_forward, "encoder", counted)
    prompts = [(Message("user", f"Question {number}?"),) for number in range(3)]
    keys = [(prompt, text) for prompt in prompts for text in ("Gladly.", "words " * 3000)]
    assert forward_of(folder, manifest, keys, pack_tokens=512).is_scored_N.tolist() == [1, 0] * 3
    assert loaded == [folder]


def test_nothing_to_measure_is_an_error(recipe: Recipe) -> None:
    manifest = read_manifest(Path(recipe.export.folder))
    assert manifest is not None
    with pytest.raises(MissingArtifact, match="nothing to measure"):
        forward_of(Path(recipe.export.folder), manifest, [], pack_tokens=512)


def test_the_largest_difference_is_relative_to_its_kind() -> None:
    def output(reward: float, gating: float, score: float) -> PackOutput:
        one = [np.array(values, dtype=np.float32) for values in ([[reward, -4.0]], [[gating, 0.5]], [score])]
        return PackOutput(one[0], np.array([0]), gating_PK=one[1], scores_R=one[2])

    base = output(2.0, 0.5, 0.1)
    assert largest_difference([base], [base]) == 0
    assert largest_difference([output(2.4, 0.5, 0.1)], [base]) == pytest.approx(0.1, rel=1e-5)
    assert largest_difference([output(2.0, 0.6, 0.1)], [base]) == pytest.approx(0.2, rel=1e-5)
    assert largest_difference([output(2.0, 0.5, 0.3)], [base]) == pytest.approx(2.0, rel=1e-5)


def test_every_row_of_the_heads_is_traced_to_its_source_and_prompt(recipe: Recipe, workspace: Workspace) -> None:
    """Two responses a question, and a source of its own for each head."""
    rows = TracedRows.read(recipe, workspace, TEST)
    assert set(rows.sources_of("harmless")) == {"gptfuzz_harmless_human", ""}
    is_rated_RH = ~np.isnan(rows.features.ratings_RK)
    assert [bool(source) for source in rows.sources_of("harmless")] == is_rated_RH[:, 2].tolist()
    prompts_by_group: dict[str, set[int]] = {}
    for group, prompt in zip(rows.groups, rows.features.prompt_of_response_R.tolist(), strict=True):
        prompts_by_group.setdefault(group, set()).add(prompt)
    assert all(len(prompts) == 1 for prompts in prompts_by_group.values())
    assert len(prompts_by_group) == len(rows.features.prompt_features_PD)


def test_rows_of_other_data_are_refused(recipe: Recipe, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    features = load_features(workspace, f"{INTENSITY_FEATURES}/{TEST}")
    other = dataclasses.replace(features, row_ids_R=features.row_ids_R + np.uint64(1))
    monkeypatch.setattr(intensity_rows, "load_features", lambda *_: other)
    with pytest.raises(StaleArtifact, match="rows of other data"):
        TracedRows.read(recipe, workspace, TEST)
