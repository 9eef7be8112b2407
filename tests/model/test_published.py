"""What the code knows of published checkpoints that carry no manifest."""

import pytest
from transformers import LlamaConfig, MistralConfig

from app.errors import InvalidWeights
from app.model.published import published_manifest

DPA = "RLHFlow/RewardModel-Mistral-7B-for-DPA-v1"


def test_armorm_has_its_19_objectives_in_order():
    config = LlamaConfig(architectures=["LlamaForRewardModelWithGating"], num_objectives=19)
    manifest = published_manifest("RLHFlow/ArmoRM-Llama3-8B-v0.1", config)
    names = [objective.name for objective in manifest.objectives]
    assert len(names) == 19
    assert names[4] == "helpsteer-verbosity"
    assert names[9] == "ultrafeedback-helpfulness"
    assert names[10:14] == ["beavertails-is_safe", "prometheus-score", "argilla-overall_quality", "argilla-judge_lm"]
    assert names[-1] == "code-readability"
    assert manifest.gating is not None
    assert manifest.gating.token == "end_of_turn"


def test_native_scales():
    armorm = published_manifest("x", LlamaConfig(architectures=["LlamaForRewardModelWithGating"], num_objectives=19))
    dpa = published_manifest(DPA, MistralConfig(architectures=["MistralForSequenceClassification"], num_labels=10))
    assert armorm.objectives[0].native(0.7) == pytest.approx(3.0)
    assert dpa.objectives[0].native(70) == pytest.approx(3.0)
    assert armorm.objectives[10].native is None


@pytest.mark.parametrize("name", [DPA, "models--RLHFlow--RewardModel-Mistral-7B-for-DPA-v1"])
def test_dpa_brings_its_template(name):
    manifest = published_manifest(
        name, MistralConfig(architectures=["MistralForSequenceClassification"], num_labels=10)
    )
    assert manifest.template.kind == "dpa"
    assert manifest.gating is None
    assert sum(manifest.composites["helpfulness"].values()) == pytest.approx(1.0)


def test_any_sequence_classifier_keeps_its_labels():
    config = LlamaConfig(architectures=["LlamaForSequenceClassification"], id2label={0: "good", 1: "bad"})
    assert [o.name for o in published_manifest("x", config).objectives] == ["good", "bad"]
    single = LlamaConfig(architectures=["LlamaForSequenceClassification"], num_labels=1)
    assert [o.name for o in published_manifest("x", single).objectives] == ["reward"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "LlamaForCausalLM"),
        ({"architectures": None}, "unnamed"),
        ({"architectures": ["LlamaForRewardModelWithGating"], "num_objectives": 18}, "18 objectives"),
        ({"architectures": ["LlamaForRewardModelWithGating"]}, "None objectives"),
    ],
)
def test_what_is_no_reward_model_is_refused(options, message):
    with pytest.raises(InvalidWeights, match=message):
        published_manifest("x", LlamaConfig(**options))
