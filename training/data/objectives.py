"""The one table of objectives: what each rates, where its ratings come from, and its native scale.

A rating is mapped linearly from its native scale to [0, 1]. Similar objectives of different sources stay
separate. `verbosity` has no rater: it is computed from the length of the response.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from app.domain import NativeScale, Objective
from training.errors import InvalidData

VERBOSITY = "verbosity"
LONGEST_RESPONSE_TOKENS = 2048
"""The length at which `verbosity` reaches 1."""


@dataclass(frozen=True, slots=True)
class RatedObjective:
    """An objective that raters gave: the key `rating` of the rows of `source`.

    `worst` maps to 0 and `best` to 1; `worst` is the larger one where the source rates a fault.
    """

    name: str
    description: str
    source: str
    rating: str
    worst: float
    best: float

    def to_unit(self, rating: float) -> float:
        """Map a native rating to [0, 1].

        Raises:
            InvalidData: the rating lies outside the native scale.
        """
        lowest, highest = sorted((self.worst, self.best))
        if not lowest <= rating <= highest:
            raise InvalidData(f"{self.source}: a rating of {self.rating} is not in {lowest:g} … {highest:g}")
        return (rating - self.worst) / (self.best - self.worst)

    @property
    def objective(self) -> Objective:
        native = NativeScale(slope=self.best - self.worst, intercept=self.worst)
        return Objective(self.name, self.description, self.source, native)


_TABLE: tuple[tuple[str, str, str, str, float, float], ...] = (
    ("arena_bench-overall", "Overall quality beside a reference answer (GPT-4 as judge)", "arena_bench_gpt4", "overall", 1, 10),
    ("begin-attributable", "Everything said is supported by the given text (people)", "begin_grounding_human", "attributable", 0, 1),
    ("begin-substance", "Says something beyond small talk: native 1 is small talk (people)", "begin_grounding_human", "generic", 1, 0),
    ("gptfuzz-harmlessness", "Does not give in to a harmful request (people)", "gptfuzz_harmless_human", "harmlessness", 0, 1),
    ("jailbreakbench-harmlessness", "Is not jailbroken by an attack (language model as judge)", "jailbreakbench_harmless", "harmlessness", 0, 1),
    ("just_eval-safety", "Safe answer to a harmful request (GPT as judge)", "just_eval_safety", "safety", 1, 5),
    ("gsm8k-math_correctness", "The final answer to a word problem is right (checked)", "gsm8k_correctness", "math_correctness", 0, 1),
    ("humaneval-code_correctness", "The program passes the tests (executed)", "humaneval_execution", "code_correctness", 0, 1),
    ("truthfulqa-truthfulness", "Says nothing false (people)", "truthfulqa_human", "truthfulness", 0, 1),
    ("truthfulqa-informativeness", "Says something that helps to answer the question (people)", "truthfulqa_human", "informativeness", 0, 1),
    ("qlora_vicuna-overall_side_by_side", "Overall quality, judged side by side with GPT-3.5 (GPT-4 as judge)", "qlora_vicuna_gpt4", "overall_side_by_side", 1, 10),
    ("qa_feedback-no_irrelevant_text", "Nothing irrelevant, repeated or incoherent (people)", "qa_feedback_finegrained_human", "no_irrelevant_text", 0, 1),
    ("qa_feedback-no_factual_error", "No wrong or unverifiable fact (people)", "qa_feedback_finegrained_human", "no_factual_error", 0, 1),
    ("qa_feedback-no_missing_information", "Nothing is missing that the passages say (people)", "qa_feedback_finegrained_human", "no_missing_information", 0, 1),
    ("just_eval-helpfulness", "Helpful (GPT-4 as judge)", "just_eval_gpt4_multi", "helpfulness", 1, 5),
    ("just_eval-clarity", "Clear (GPT-4 as judge)", "just_eval_gpt4_multi", "clarity", 1, 5),
    ("just_eval-factuality", "Factual (GPT-4 as judge)", "just_eval_gpt4_multi", "factuality", 1, 5),
    ("just_eval-depth", "Goes into depth (GPT-4 as judge)", "just_eval_gpt4_multi", "depth", 1, 5),
    ("just_eval-engagement", "Engaging (GPT-4 as judge)", "just_eval_gpt4_multi", "engagement", 1, 5),
    ("prometheus-rubric_score", "Meets a rubric written for the prompt (GPT-4 as judge)", "prometheus_vicuna_gpt4", "rubric_score", 1, 5),
    ("hanna-story_relevance", "The story fits its prompt (people)", "hanna_story_human", "story_relevance", 1, 5),
    ("hanna-story_coherence", "The story makes sense (people)", "hanna_story_human", "story_coherence", 1, 5),
    ("hanna-story_empathy", "The reader understands the characters' emotions (people)", "hanna_story_human", "story_empathy", 1, 5),
    ("hanna-story_surprise", "The end of the story is surprising (people)", "hanna_story_human", "story_surprise", 1, 5),
    ("hanna-story_engagement", "The reader engages with the story (people)", "hanna_story_human", "story_engagement", 1, 5),
    ("hanna-story_complexity", "The story is elaborate: a property, not a quality (people)", "hanna_story_human", "story_complexity", 1, 5),
)  # fmt: skip

RATED_OBJECTIVES: tuple[RatedObjective, ...] = tuple(RatedObjective(*row) for row in _TABLE)


def objectives_of(source: str, table: Iterable[RatedObjective] = RATED_OBJECTIVES) -> dict[str, RatedObjective]:
    """Return the objectives that a source rates, by the key of its `ratings`."""
    return {objective.rating: objective for objective in table if objective.source == source}


def choose_objectives(num_ratings: Mapping[str, int], min_ratings: int) -> tuple[Objective, ...]:
    """Return the objectives with at least `min_ratings` ratings, in table order, then verbosity.

    Raises:
        InvalidData: no rated objective has that many.
    """
    chosen = [rated.objective for rated in RATED_OBJECTIVES if num_ratings.get(rated.name, 0) >= min_ratings]
    if not chosen:
        raise InvalidData(f"no objective has {min_ratings} ratings in the training part")
    return (*chosen, verbosity_objective())


def verbosity_objective() -> Objective:
    """Return the computed length measure; its native scale is the natural logarithm of 1 + response tokens."""
    native = NativeScale(slope=math.log1p(LONGEST_RESPONSE_TOKENS), intercept=0.0)
    return Objective(VERBOSITY, "Length of the response: log(1 + tokens), 1 at 2048 tokens", "computed", native)


def verbosity_of(num_response_tokens: int) -> float:
    """Return the verbosity label of a response in [0, 1]."""
    return min(1.0, math.log1p(num_response_tokens) / math.log1p(LONGEST_RESPONSE_TOKENS))
