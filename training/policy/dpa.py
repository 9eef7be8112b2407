"""Directional Preference Alignment: iterations of rejection sampling and fine-tuning from the SFT checkpoint (§2.2).

    t = 0      SteerLM on the second half                                              training.policy.steerlm
    t = 1 … T  sample with the policy of t − 1 on the half of t; each direction keeps its best response;
               fine-tune the *SFT checkpoint* on those, the direction in the system prompt, with memory replay

Every iteration has a folder `dpa/iteration_t` with what was kept, the log and the policy. A run that is killed goes on
inside the iteration: kept responses by groups of prompts, fine-tuning by Trainer's checkpoints.
"""

from collections.abc import Sequence
from typing import Final

from training.errors import InvalidData
from training.logs import TrainingLog, read_log
from training.policy import steerlm
from training.policy.configs import PolicyRecipe
from training.policy.dpa_run import STEERLM, DpaRun, iteration_name
from training.policy.dpa_sampling import DirectionDraw, Draw, RewardDraw, keep_best
from training.policy.metering import Metered, service_line
from training.policy.originals import half_of_iteration, originals_of, replayed
from training.policy.prompts import Prompt, with_direction
from training.policy.rejection_sampling import Kept
from training.policy.row_groups import RowGroups
from training.policy.sft_rows import SftRow
from training.policy.steerlm_prompts import Combinations

LOG: Final = "log.csv"


def align(run: DpaRun) -> None:
    """Make SteerLM and the policy of every iteration; those that are there are reused.

    Raises:
        InvalidData: an iteration has kept nothing to learn from, or SteerLM has no original response.
        UnrewardedTraining: the service refuses group after group.
        StaleArtifact: what is there was made by another recipe.
    """
    combinations = steerlm.make(run)
    for iteration in range(1, run.config.iterations + 1):
        if run.is_made(iteration_name(iteration)):
            print(f"iteration {iteration}: reused", flush=True)
            continue
        kept = sample(run, iteration, combinations)
        rows = fine_tuning_rows(run, iteration, kept)
        print(f"iteration {iteration}: {len(kept)} kept and {len(rows) - len(kept)} original responses", flush=True)
        run.fine_tune(rows, run.config.fine_tuning, run.folder(iteration_name(iteration)))
    folders = [run.folder(iteration_name(iteration)) for iteration in range(1, run.config.iterations + 1)]
    print(service_line("dpa sampling", [row for folder in folders for row in read_log(folder / LOG)]), flush=True)


def sample(run: DpaRun, iteration: int, combinations: Combinations) -> list[tuple[Prompt, Kept]]:
    """Draw from the last policy on this iteration's half, and keep the best of each direction.

    Raises:
        InvalidData: nothing was kept.
        UnrewardedTraining, StaleArtifact: as `align`.
    """
    folder = run.folder(iteration_name(iteration))
    prompts = run.half(half_of_iteration(iteration))
    groups = RowGroups(folder / "kept.jsonl", run.key)
    log = TrainingLog(folder / LOG, len(groups))
    draw = draw_of(run, iteration, combinations)
    kept = keep_best(prompts, draw, Metered(run.rewards, run.usage), groups, log, run.config)
    if not kept:
        raise InvalidData(f"dpa: iteration {iteration} has kept no response: the service has scored none")
    return kept


def draw_of(run: DpaRun, iteration: int, combinations: Combinations) -> Draw:
    """Return how an iteration draws: from SteerLM under rewards first, then from the last policy under directions."""
    temperature = run.recipe.sampling.temperature
    name = STEERLM if iteration == 1 else iteration_name(iteration - 1)
    sampler = run.sampler_of(name, run.policy_folder(name), temperature)
    seed = (run.recipe.seed, iteration)
    if iteration == 1:
        return RewardDraw(sampler, run.config, combinations, seed)
    return DirectionDraw(sampler, run.config, seed)


def fine_tuning_rows(run: DpaRun, iteration: int, kept: Sequence[tuple[Prompt, Kept]]) -> list[SftRow]:
    """Return kept responses under their directions, and original ones of the same half as they are, shuffled."""
    half = half_of_iteration(iteration)
    originals = originals_of(run.originals, half, run.recipe.prompts.evaluation_share)
    learned = [SftRow(with_direction(prompt, best.direction.by_name), best.response) for prompt, best in kept]
    memory = replayed(originals, len(learned), run.config.replay_share, (run.recipe.seed, iteration))
    return run.shuffled([*learned, *memory], iteration)


def run(recipe: PolicyRecipe) -> None:
    """Run the stage `dpa`: SteerLM, then every iteration."""
    from training.policy.dpa_wiring import opened  # noqa: PLC0415 - trl takes seconds

    with opened(recipe) as dpa:
        align(dpa)
