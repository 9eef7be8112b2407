"""The section [dpa] of a policy's recipe: iterations of rejection sampling, SteerLM before them, DPO beside them.

Knows what may be set, not what it does. The defaults are the paper's (§3.1).
"""

import math
from dataclasses import dataclass, field

from training.allowed import require


@dataclass(frozen=True, slots=True)
class FineTuningConfig:
    """One fine-tuning run from the SFT checkpoint. What is not here is as in the section [sft]."""

    learning_rate: float = 1e-5
    warmup_steps: int = 20
    epochs: float = 2.0
    batch_size: int = 64
    max_tokens: int = 4096
    """Longer rows are left out and counted; a direction in the system prompt takes some tokens too."""

    def __post_init__(self) -> None:
        require(min(self.learning_rate, self.epochs) > 0, "dpa: learning_rate and epochs must be positive")
        require(min(self.batch_size, self.max_tokens) > 0, "dpa: batch_size and max_tokens must be positive")
        require(self.warmup_steps >= 0, "dpa: warmup_steps must not be negative")


@dataclass(frozen=True, slots=True)
class SteerLMConfig:
    """t = 0: a policy conditioned on the rewards themselves."""

    responses_per_prompt: int = 80
    """Sampled for t = 1, each under another combination of rewards."""
    max_rows: int = 0
    """Original responses it learns from, by a hash; 0 keeps all of its half."""
    evaluated_combinations: int = 5
    """Values of verbosity it is measured at, each with the highest helpfulness seen beside it."""
    fine_tuning: FineTuningConfig = field(default_factory=FineTuningConfig)

    def __post_init__(self) -> None:
        counts = (self.responses_per_prompt, self.evaluated_combinations)
        require(min(counts) > 0, "dpa.steerlm: counts must be positive")
        require(self.max_rows >= 0, "dpa.steerlm.max_rows must not be negative; 0 keeps all")


@dataclass(frozen=True, slots=True)
class DpoConfig:
    """The baseline that knows one reward: the best against the worst of n under one fixed direction."""

    angle_degrees: float = 0.0
    """The direction's; 0 is helpfulness alone."""
    responses_per_prompt: int = 8
    max_prompts: int = 0
    beta: float = 0.1
    learning_rate: float = 5e-7
    warmup_steps: int = 20
    epochs: float = 1.0
    batch_size: int = 32

    def __post_init__(self) -> None:
        require(self.responses_per_prompt >= 2, "dpa.dpo.responses_per_prompt must be at least 2: a pair")
        require(min(self.beta, self.learning_rate, self.epochs) > 0, "dpa.dpo: beta, rate and epochs must be positive")
        require(self.batch_size > 0, "dpa.dpo.batch_size must be positive")
        require(min(self.max_prompts, self.warmup_steps) >= 0, "dpa.dpo: counts must not be negative")


@dataclass(frozen=True, slots=True)
class DpaConfig:
    """Rejection-sampling fine-tuning conditioned on a direction (DPA, §2.2)."""

    components: tuple[str, ...] = ("helpfulness", "verbosity")
    """What a direction weighs: objectives of the service, or composites."""
    composites: tuple[str, ...] = ()
    """`name = objective: weight, objective: weight`, each."""
    angles_degrees: tuple[float, ...] = (-45.0, 0.0)
    """Directions over two components are drawn uniformly between these signed arctan(v2 / v1)."""
    grid_divisions: int = 0
    """Where not 0, directions are drawn from a grid instead, over any number of components."""
    grid_signs: tuple[float, ...] = ()
    """+1 or -1 per component: whether the grid rewards it or counts it against."""
    iterations: int = 4
    directions: int = 5
    """Directions drawn per prompt."""
    responses_per_direction: int = 16
    max_prompts: int = 0
    """Prompts per half, by a hash; 0 keeps all."""
    prompts_per_group: int = 32
    """Prompts that are sampled, scored and written down together; a killed run loses one group at most."""
    replay_share: float = 0.15
    """Share of the fine-tuning rows that are original responses, without a direction: memory replay."""
    reward_scale: float = 100.0
    """What SteerLM's integers are: the reward times this, rounded. Weights of the paper's own are 0–100 already: 1."""
    most_failed_steps: int = 5
    """So many groups in a row may have no reward at all before the run stops."""
    evaluation_directions: int = 10
    reference_point: tuple[float, ...] = ()
    """The hypervolume's: the second component (verbosity) last; empty takes the worst of all that is compared."""
    second_components: tuple[str, ...] = ()
    """What the components are called at `evaluation.second_url`; empty takes the same names."""
    second_composites: tuple[str, ...] = ()
    fine_tuning: FineTuningConfig = field(default_factory=FineTuningConfig)
    steerlm: SteerLMConfig = field(default_factory=SteerLMConfig)
    dpo: DpoConfig = field(default_factory=DpoConfig)

    def __post_init__(self) -> None:
        require(len(set(self.components)) == len(self.components) >= 2, "dpa.components must be two names or more")
        self._check_directions()
        counts = ("iterations", "directions", "responses_per_direction", "prompts_per_group", "most_failed_steps")
        for name in (*counts, "evaluation_directions"):
            require(getattr(self, name) >= 1, f"dpa.{name} must be at least 1")
        require(self.max_prompts >= 0, "dpa.max_prompts must not be negative; 0 keeps all")
        require(0 <= self.replay_share < 1, "dpa.replay_share must lie in 0 … 1, 1 excluded")
        require(self.reward_scale > 0, "dpa.reward_scale must be positive")
        require(len(self.reference_point) in (0, 2), "dpa.reference_point must be two numbers, or none")
        names = len(self.second_components)
        require(names in (0, len(self.components)), "dpa.second_components must name every component, or none")
        for composites in (self.composites, self.second_composites):
            parsed_composites(composites)

    def _check_directions(self) -> None:
        if self.grid_divisions:
            require(self.grid_divisions > 0, "dpa.grid_divisions must not be negative")
            signs = len(self.grid_signs) == len(self.components) and set(map(abs, self.grid_signs)) == {1.0}
            require(signs, "dpa.grid_signs must be +1 or -1 per component")
            return
        require(len(self.components) == 2, "dpa: more than two components need dpa.grid_divisions")
        ordered = len(self.angles_degrees) == 2 and -180 < self.angles_degrees[0] < self.angles_degrees[1] <= 180
        require(ordered, "dpa.angles_degrees must be two angles, the lower first, within -180 … 180")

    @property
    def angles(self) -> tuple[float, float]:
        """The range of angles in radians."""
        lowest, highest = self.angles_degrees
        return math.radians(lowest), math.radians(highest)

    @property
    def signs(self) -> tuple[float, ...]:
        """Whether the directions that are drawn reward each component (+1) or count it against a response (-1)."""
        return self.grid_signs if self.grid_divisions else (1.0, -1.0 if self.angles_degrees[0] < 0 else 1.0)

    @property
    def service_composites(self) -> dict[str, dict[str, float]]:
        """The composites as the service takes them."""
        return parsed_composites(self.composites)


def parsed_composites(lines: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Read `name = objective: weight, objective: weight` lines.

    Raises:
        InvalidRecipe: a line is not of that form, or a name comes twice.
    """
    composites: dict[str, dict[str, float]] = {}
    for line in lines:
        name, _, weights = line.partition("=")
        parsed = dict(_weighted(part) for part in weights.split(","))
        require(bool(name.strip()) and name.strip() not in composites, "dpa.composites must have different names")
        composites[name.strip()] = parsed
    return composites


def _weighted(part: str) -> tuple[str, float]:
    objective, _, weight = part.rpartition(":")
    try:
        value = float(weight)
    except ValueError:
        value = math.nan
    whole = bool(objective.strip()) and math.isfinite(value)
    require(whole, "dpa.composites must read `name = objective: weight, objective: weight`")
    return objective.strip(), value
