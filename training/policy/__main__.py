"""Train a policy against the service: `python -m training.policy STAGE … RECIPE`. A run is a file, not flags."""

import argparse
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Final, cast

from safetensors import SafetensorError
from tqdm.contrib.logging import logging_redirect_tqdm

from app.errors import ArmoserveError
from training.policy.configs import PolicyRecipe, read_policy_recipe


@dataclass(frozen=True, slots=True)
class PolicyStage:
    """One thing that can be run; its module is imported only then, for some take seconds."""

    name: str
    purpose: str
    module: str
    function: str = "run"

    def run(self, recipe: PolicyRecipe) -> None:
        function = getattr(import_module(f"training.policy.{self.module}"), self.function)
        cast("Callable[[PolicyRecipe], None]", function)(recipe)


STAGES: Final[tuple[PolicyStage, ...]] = (
    PolicyStage("tiny", "a tiny policy from random weights, for runs on a CPU", "tiny"),
    PolicyStage("sft", "supervised fine-tuning on the responses of the data folder", "sft"),
    PolicyStage("steerlm", "DPA's t = 0 alone: a policy conditioned on the rewards themselves", "steerlm"),
    PolicyStage("dpa", "SteerLM, then iterations of rejection sampling under directions", "dpa"),
    PolicyStage("dpo", "DPA's baseline: pairs under one fixed direction", "dpo"),
    PolicyStage("ppo", "MOSLIM: PPO against the mapped reward, conditional on intensity prefixes", "ppo"),
    PolicyStage("rloo", "MOSLIM: the same by RLOO, through TRL", "rloo"),
    PolicyStage("online_dpo", "MOSLIM: the same by DPO on the best and the worst of fresh responses", "online_dpo"),
    PolicyStage("morlhf", "baseline: PPO against one fixed weighting, no prefix", "baselines_wiring", "run_morlhf"),
    PolicyStage("rewarded_soups", "baseline: parameters between those of policies", "baselines_wiring", "run_soups"),
    PolicyStage("second_reward_model", "a second judge: heads anew on half of the prompts", "second_reward_model"),
    PolicyStage("controllability", "levels got for each level asked, by two judges", "controllability_wiring"),
    PolicyStage("report", "curves and pictures of runs as one page", "report"),
    PolicyStage("dpa_evaluation", "rewards for each direction asked, by two judges", "dpa_evaluation"),
)
BY_NAME: Final = {stage.name: stage for stage in STAGES}


def main(arguments: list[str] | None = None) -> int:
    """Run stages, one after the other; return the exit code."""
    parsed = _parser().parse_args(arguments)
    running = parsed.stages[0]
    try:
        recipe = read_policy_recipe(parsed.recipe)
        if parsed.seed is not None:
            recipe = seeded(recipe, parsed.seed)
        prepare(recipe)
        with logging_redirect_tqdm([logging.getLogger("app")]):  # what the client says breaks no progress bar
            for running in parsed.stages:
                BY_NAME[running].run(recipe)
    except ArmoserveError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except (OSError, SafetensorError) as error:
        # A full disk or a file that may not be read: the machine's matter, so no traceback. safetensors has its own.
        print(f"{running} stopped; what it had written is kept: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        rest = " ".join(parsed.stages[parsed.stages.index(running) :])  # stages that have ended would run again
        print(f"stopped; `{rest}` goes on from what is kept", file=sys.stderr)
        return 130
    return 0


def seeded(recipe: PolicyRecipe, seed: int) -> PolicyRecipe:
    """Return a recipe with another seed, which works in a folder beside its own: `WORK-seed-N`."""
    return replace(recipe, seed=seed, work_folder=f"{recipe.work_folder}-seed-{seed}")


def prepare(recipe: PolicyRecipe) -> None:
    """Set what holds for the whole process: torch's threads, and quiet libraries."""
    import torch  # noqa: PLC0415 - --help needs none
    from transformers.utils.logging import disable_progress_bar  # noqa: PLC0415

    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    disable_progress_bar()


def _parser() -> argparse.ArgumentParser:
    stages = "\n".join(f"  {stage.name:<15} {stage.purpose}" for stage in STAGES)
    parser = argparse.ArgumentParser(
        prog="python -m training.policy",
        description="Train a policy against the reward service as a recipe says.",
        epilog=f"stages:\n{stages}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("stages", choices=BY_NAME, nargs="+", metavar="STAGE", help="one of those below, or several")
    parser.add_argument("recipe", type=Path, metavar="RECIPE", help="a TOML file such as recipes/policy_tiny.toml")
    parser.add_argument(
        "--seed",
        type=int,
        metavar="N",
        help="another seed than the recipe's; works in a folder of its own, WORK-seed-N",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
