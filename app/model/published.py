"""What is known of published checkpoints, which say nothing about themselves: names, scales and templates.

ArmoRM's 19 objectives (RLHFlow/ArmoRM-Llama3-8B-v0.1), DPA's 10 (RLHFlow/RewardModel-Mistral-7B-for-DPA-v1), and
labels of any other sequence-classification reward model as its config names them.
"""

from typing import Final

from transformers import PretrainedConfig

from app.domain import NativeScale, Objective
from app.errors import InvalidWeights
from app.model.manifest import GatingSpec, Manifest, TemplateSpec

ARMORM_ARCHITECTURE: Final = "LlamaForRewardModelWithGating"
DPA_NAME: Final = "RewardModel-Mistral-7B-for-DPA-v1"
VERBOSITY: Final = "helpsteer-verbosity"

ARMORM_SCALE: Final = NativeScale(slope=5.0, intercept=-0.5)
"""The checkpoint was trained on HelpSteer's 0–4 ratings as `(rating + 0.5) / 5`."""
DPA_SCALE: Final = NativeScale(slope=1 / 20, intercept=-0.5)
"""The checkpoint was trained on HelpSteer's 0–4 ratings as `20 · rating + 10`."""

HELPSTEER: Final = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
ULTRAFEEDBACK: Final = ("overall_score", "instruction_following", "truthfulness", "honesty", "helpfulness")
CODE: Final = ("complexity", "style", "explanation", "instruction-following", "readability")

DESCRIPTIONS: Final = {
    "helpsteer-helpfulness": "overall helpfulness of the response",
    "helpsteer-correctness": "all pertinent facts are there and without error",
    "helpsteer-coherence": "consistency and clarity of expression",
    "helpsteer-complexity": "intellectual depth needed to write the response",
    "helpsteer-verbosity": "amount of detail relative to what was asked",
    "ultrafeedback-overall_score": "overall quality in the eyes of GPT-4",
    "ultrafeedback-instruction_following": "the response does what the instruction asks",
    "ultrafeedback-truthfulness": "no misinformation and no hallucination",
    "ultrafeedback-honesty": "stated certainty fits what the model knows",
    "ultrafeedback-helpfulness": "the response is informative and useful",
    "beavertails-is_safe": "the response is harmless",
    "prometheus-score": "fulfilment of a rubric of its own for every prompt",
    "argilla-overall_quality": "overall quality of a turn in a conversation",
    "argilla-judge_lm": "JudgeLM's grade of the response",
    "code-complexity": "time and space efficiency of the code",
    "code-style": "coding style",
    "code-explanation": "quality of the explanation of the code",
    "code-instruction-following": "the code does what the instruction asks",
    "code-readability": "readability of the code",
}


def published_manifest(name: str, config: PretrainedConfig) -> Manifest:
    """Return the manifest of a checkpoint without one, from its name and its config.

    Raises:
        InvalidWeights: the architecture is neither ArmoRM's nor a sequence classifier.
    """
    architecture = (config.architectures or ["unnamed"])[0]
    if architecture == ARMORM_ARCHITECTURE:
        return _armorm(name, config)
    if not architecture.endswith("ForSequenceClassification"):
        raise InvalidWeights(
            f"config.json names the architecture {architecture}; reward models are "
            f"{ARMORM_ARCHITECTURE} or *ForSequenceClassification"
        )
    if DPA_NAME in f"{name} {getattr(config, '_name_or_path', '')}":
        return _dpa(name, config)
    return Manifest(name=name, objectives=tuple(Objective(label) for label in _labels(config)))


def _armorm(name: str, config: PretrainedConfig) -> Manifest:
    names = _helpsteer_and_ultrafeedback() + tuple(
        ["beavertails-is_safe", "prometheus-score", "argilla-overall_quality", "argilla-judge_lm"]
        + [f"code-{objective}" for objective in CODE]
    )
    _check_count(names, getattr(config, "num_objectives", None))
    return Manifest(
        name=name,
        description="ArmoRM in the published layout: 19 objectives, gating by the prompt",
        objectives=_objectives(names, ARMORM_SCALE),
        verbosity_objective=VERBOSITY,
        gating=GatingSpec(),
        composites=_composites(),
    )


def _dpa(name: str, config: PretrainedConfig) -> Manifest:
    names = _helpsteer_and_ultrafeedback()
    _check_count(names, config.num_labels)
    return Manifest(
        name=name,
        description="The reward model of Directional Preference Alignment: 10 objectives on a 0–100 scale",
        objectives=_objectives(names, DPA_SCALE),
        verbosity_objective=VERBOSITY,
        composites=_composites(),
        template=TemplateSpec(kind="dpa"),
    )


def _helpsteer_and_ultrafeedback() -> tuple[str, ...]:
    return tuple([f"helpsteer-{name}" for name in HELPSTEER] + [f"ultrafeedback-{name}" for name in ULTRAFEEDBACK])


def _objectives(names: tuple[str, ...], helpsteer_scale: NativeScale) -> tuple[Objective, ...]:
    return tuple(
        Objective(
            name=name,
            description=DESCRIPTIONS[name],
            source=name.partition("-")[0],
            native=helpsteer_scale if name.startswith("helpsteer-") else None,
        )
        for name in names
    )


def _composites() -> dict[str, dict[str, float]]:
    """The components of DPA's directions: helpfulness is a mean over UltraFeedback, verbosity is HelpSteer's."""
    parts = ("instruction_following", "truthfulness", "honesty", "helpfulness")
    return {"helpfulness": {f"ultrafeedback-{part}": 0.25 for part in parts}, "verbosity": {VERBOSITY: 1.0}}


def _labels(config: PretrainedConfig) -> list[str]:
    """A single unnamed label is `reward`; several keep the names of the config."""
    labels = [str(config.id2label[index]) for index in range(config.num_labels)]
    return ["reward"] if labels == ["LABEL_0"] else labels


def _check_count(names: tuple[str, ...], count: int | None) -> None:
    if count != len(names):
        raise InvalidWeights(f"config.json has {count} objectives where this published checkpoint has {len(names)}")
