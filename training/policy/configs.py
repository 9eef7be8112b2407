"""Recipes of policies: what every algorithm shares, and one section per algorithm, which lives beside its loop.

Knows what may be set, not what it does. Almost every key has a default; an unknown key is an error. Units are in names.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from training.allowed import DEVICES, DTYPES, require
from training.policy.baselines_configs import MorlhfConfig, RewardedSoupsConfig
from training.policy.dpa_configs import DpaConfig
from training.policy.measuring_configs import ControllabilityConfig, PolicyReportConfig, SecondRewardModelConfig
from training.policy.online_dpo_configs import OnlineDpoConfig
from training.policy.ppo_configs import PpoConfig
from training.policy.rloo_configs import RlooConfig
from training.recipe_reading import read_document, section_of

BACKENDS: Final = ("transformers", "openai")


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """The reward service that is asked."""

    url: str = "http://127.0.0.1:8000"
    api_key_env: str = ""
    """The environment variable that holds its key; empty where it asks for none."""
    max_in_flight: int = 32
    """Requests that wait for an answer at once."""
    max_items_per_request: int = 64
    retry_seconds: float = 600.0
    """How long a service that is away or overloaded is waited for."""

    def __post_init__(self) -> None:
        require(self.url.startswith(("http://", "https://")), "service.url must begin with http:// or https://")
        require(min(self.max_in_flight, self.max_items_per_request) > 0, "service: counts must be positive")
        require(self.retry_seconds >= 0, "service.retry_seconds must not be negative")


@dataclass(frozen=True, slots=True)
class AdaptersConfig:
    """Low-rank adapters: W + (alpha / rank) · B A with W frozen, merged into W where a policy is saved."""

    rank: int = 0
    """0 trains every parameter."""
    alpha: float = 32.0
    dropout: float = 0.05
    target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

    def __post_init__(self) -> None:
        require(self.rank >= 0 and self.alpha > 0, "policy.lora: rank must not be negative, alpha must be positive")
        require(0 <= self.dropout < 1, "policy.lora.dropout must lie in 0 … 1")
        require(bool(self.target_modules), "policy.lora.target_modules must name one at least")


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """The policy that is trained."""

    model: str = ""
    """A folder in Hugging Face layout or a hub id; empty takes the tiny policy of the stage `tiny`."""
    lora: AdaptersConfig = field(default_factory=AdaptersConfig)
    device: str = "cpu"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        require(self.device in DEVICES, f"policy.device must be one of {', '.join(DEVICES)}")
        require(self.dtype in DTYPES, f"policy.dtype must be one of {', '.join(DTYPES)}")


@dataclass(frozen=True, slots=True)
class PromptsConfig:
    """The prompts that a policy responds to."""

    files: tuple[str, ...] = ("../shared/data/prompts/general.jsonl.gz",)
    """JSON lines with `messages`, plain or gzipped."""
    max_prompts: int = 0
    """Prompts kept, by a hash of the prompt; 0 keeps all."""
    max_prompt_tokens: int = 512
    """Longer prompts are left out and counted."""
    evaluation_share: float = 0.1
    """Share of the prompts that no policy is trained on."""

    def __post_init__(self) -> None:
        require(bool(self.files), "prompts.files must name one at least")
        require(self.max_prompts >= 0, "prompts.max_prompts must not be negative; 0 keeps all")
        require(self.max_prompt_tokens > 0, "prompts.max_prompt_tokens must be positive")
        require(0 < self.evaluation_share < 1, "prompts.evaluation_share must lie between 0 and 1")


@dataclass(frozen=True, slots=True)
class SamplingConfig:
    """How responses are drawn."""

    max_new_tokens: int = 256
    temperature: float = 1.0
    batch_size: int = 64
    """Responses that are generated at once. Which responses those are does not depend on it but for rounding."""
    backend: str = "transformers"
    """`openai` asks a server, vLLM for one, at `url`, where a loop has no need of tokens."""
    url: str = ""
    """Up to and with `/v1`."""
    model: str = ""
    """What that server calls the policy."""
    api_key_env: str = ""
    max_in_flight: int = 16

    def __post_init__(self) -> None:
        require(self.backend in BACKENDS, f"sampling.backend must be one of {', '.join(BACKENDS)}")
        counts = (self.max_new_tokens, self.batch_size, self.max_in_flight)
        require(min(counts) > 0, "sampling: counts must be positive")
        require(self.temperature > 0, "sampling.temperature must be positive")
        served = self.backend != "openai" or bool(self.url and self.model)
        require(served, 'sampling.backend = "openai" needs sampling.url and sampling.model')


@dataclass(frozen=True, slots=True)
class TinyConfig:
    """A Llama policy from random weights, small enough for one CPU core."""

    vocabulary_size: int = 640
    whole_tokens: tuple[str, ...] = ()
    """Strings that are one token each, such as `<helpfulness 5>`: a model this small hardly puts pieces together."""
    hidden_size: int = 96
    layers: int = 2
    attention_heads: int = 4
    intermediate_size: int = 256
    max_position_embeddings: int = 1024

    def __post_init__(self) -> None:
        require(self.vocabulary_size >= 300, "tiny.vocabulary_size must be at least 300: bytes and special tokens")
        whole = self.hidden_size % (2 * self.attention_heads) == 0
        require(whole, "tiny.hidden_size must be an even multiple of attention_heads")


@dataclass(frozen=True, slots=True)
class SftConfig:
    """Supervised fine-tuning on the responses of a data folder: chosen ones, and rated ones."""

    folder: str = "../shared/data"
    """Plain JSON lines as in docs/training.md; only the train split is read."""
    sources: tuple[str, ...] = ()
    """Names of files in `ratings/` and `preferences/`; empty reads them all."""
    max_rows: int = 0
    """Rows kept, by a hash; 0 keeps all."""
    max_tokens: int = 1024
    """Conversations of more tokens are left out and counted."""
    max_response_characters: int = 0
    """Longer responses are left out; 0 keeps all."""
    epochs: float = 1.0
    batch_size: int = 32
    learning_rate: float = 1e-5
    schedule: str = "cosine"
    warmup_steps: int = 20
    weight_decay: float = 0.0
    gradient_accumulation_steps: int = 1
    gradient_checkpointing: bool = False
    packing: bool = False
    """Whether several conversations share a row of `max_tokens`: they stay apart only where attention knows (CUDA)."""
    checkpoint_every_steps: int = 200
    """A run that is killed goes on from its last checkpoint."""

    def __post_init__(self) -> None:
        counts = (self.max_tokens, self.batch_size, self.gradient_accumulation_steps, self.checkpoint_every_steps)
        require(min(counts) > 0, "sft: sizes and counts must be positive")
        none_negative = min(self.max_rows, self.max_response_characters, self.warmup_steps) >= 0
        require(none_negative, "sft: max_rows, max_response_characters and warmup_steps must not be negative")
        require(self.epochs > 0 and self.learning_rate > 0, "sft: epochs and learning_rate must be positive")
        require(self.schedule in ("cosine", "linear"), "sft.schedule must be one of cosine, linear")


@dataclass(frozen=True, slots=True)
class EvaluationConfig:
    """How a trained policy is measured, on prompts it was not trained on."""

    max_prompts: int = 200
    responses_per_prompt: int = 1
    temperature: float = 0.7
    """The papers' own, below the 1.0 of training."""
    second_url: str = ""
    """Another service, of a reward model that nothing was trained against, which judges as well; empty asks none."""

    def __post_init__(self) -> None:
        reachable = not self.second_url or self.second_url.startswith(("http://", "https://"))
        require(reachable, "evaluation.second_url must begin with http:// or https://, or be empty")
        require(min(self.max_prompts, self.responses_per_prompt) > 0, "evaluation: counts must be positive")
        require(self.temperature > 0, "evaluation.temperature must be positive")


@dataclass(frozen=True, slots=True)
class PolicyRecipe:
    """A whole run: where it works, what all algorithms share, and one section per algorithm."""

    work_folder: str
    seed: int = 0
    threads: int = 0
    """CPU threads of torch; 0 leaves torch's own choice."""
    service: ServiceConfig = field(default_factory=ServiceConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    prompts: PromptsConfig = field(default_factory=PromptsConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    tiny: TinyConfig = field(default_factory=TinyConfig)
    sft: SftConfig = field(default_factory=SftConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    dpa: DpaConfig = field(default_factory=DpaConfig)
    ppo: PpoConfig = field(default_factory=PpoConfig)
    rloo: RlooConfig = field(default_factory=RlooConfig)
    online_dpo: OnlineDpoConfig = field(default_factory=OnlineDpoConfig)
    morlhf: MorlhfConfig = field(default_factory=MorlhfConfig)
    rewarded_soups: RewardedSoupsConfig = field(default_factory=RewardedSoupsConfig)
    controllability: ControllabilityConfig = field(default_factory=ControllabilityConfig)
    second_reward_model: SecondRewardModelConfig = field(default_factory=SecondRewardModelConfig)
    report: PolicyReportConfig = field(default_factory=PolicyReportConfig)


def read_policy_recipe(path: Path) -> PolicyRecipe:
    """Read a recipe; relative folders in it are relative to the current directory.

    Raises:
        InvalidRecipe: the file is missing or not TOML, a key is unknown or missing, or a value is not allowed.
    """
    return section_of(PolicyRecipe, read_document(path), path.name)
