"""Stage: controllability of the policies of a work folder, by the service and by a second one where there is one.

Knows which policies there are and who judges them; what is measured is `training.policy.controllability`'s.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from app.client import ItemError, RewardClient
from app.client_results import ClassifiedResponse
from app.domain import IntensityHead, Item
from training.errors import InvalidRecipe
from training.policy.configs import PolicyRecipe
from training.policy.controllability import Asked, Classify, Judgement, compared, measure
from training.policy.dpa_wiring import Samplers
from training.policy.moslim_wiring import askable
from training.policy.policy import Policy, Prompt, sft_policy
from training.policy.prompts import read_prompts, with_targets
from training.policy.report import CONTROLLABILITY
from training.policy.results import ControllabilityResults, Measured, write_results
from training.policy.rewards import check_no_prefix, served_heads
from training.policy.service import client_of

SERVICE: Final = "service"
SECOND: Final = "second"
SFT: Final = "sft"
MEASURED: Final = ("ppo", "rloo", "online_dpo", "morlhf", "rewarded_soups")
"""Folders of a work folder that are policies; those that are there are measured, beside the SFT policy."""


@dataclass(frozen=True, slots=True)
class ServiceJudge:
    """The service's intensity heads and reward mapping as a judge, who must see no prefix.

    Raises, when called:
        LeakedPrefix: a prompt begins with a tag that names a head.
        ClientError: as `RewardClient` says.
    """

    client: RewardClient
    heads: tuple[IntensityHead, ...]

    def __call__(
        self, prompts: Sequence[Prompt], responses: Sequence[str], targets: Mapping[str, int]
    ) -> list[Judgement | None]:
        """Return class probabilities and mapped reward, None where the service has an error for the response."""
        for prompt in prompts:
            check_no_prefix(prompt, self.heads)
        items = [Item(prompt, (text,)) for prompt, text in zip(prompts, responses, strict=True)]
        return [
            None if isinstance(result, ItemError) else _judgement(result.responses[0])
            for result in self.client.moslim_classify(items, targets or None)
        ]


def _judgement(response: ClassifiedResponse) -> Judgement:
    return Judgement({name: head.probabilities for name, head in response.heads.items()}, response.reward)


@contextmanager
def judges_of(recipe: PolicyRecipe) -> Iterator[dict[str, ServiceJudge]]:
    """Give the service as a judge, and the one at `evaluation.second_url`, where there is one.

    Raises:
        InvalidRecipe: one serves no intensity heads, or the second one has other heads than the first.
    """
    urls = {SERVICE: recipe.service.url}
    if recipe.evaluation.second_url:
        urls[SECOND] = recipe.evaluation.second_url
    with ExitStack() as stack:
        judges: dict[str, ServiceJudge] = {}
        for name, url in urls.items():
            client = stack.enter_context(client_of(replace(recipe.service, url=url)))
            judges[name] = ServiceJudge(client, served_heads(client.info()))
        levels = [_levels(judge.heads) for judge in judges.values()]
        if not all(levels):
            raise InvalidRecipe("controllability: a service serves weights without intensity heads")
        if levels[0] != levels[-1]:
            raise InvalidRecipe(f"controllability: the services have different heads: {levels[0]} and {levels[-1]}")
        yield judges


def _levels(heads: Sequence[IntensityHead]) -> dict[str, int]:
    return {head.name: head.classes for head in heads}


def policies_of(recipe: PolicyRecipe) -> dict[str, str]:
    """Return the folders of the policies to measure, the SFT policy first."""
    work = Path(recipe.work_folder)
    trained = {name: str(work / name) for name in MEASURED if (work / name / "config.json").exists()}
    return {SFT: sft_policy(recipe)} | trained


def asked_of(recipe: PolicyRecipe, heads: tuple[IntensityHead, ...]) -> Asked:
    """Return the grid for a policy, on prompts that no policy was trained on."""
    encode = Policy.load(sft_policy(recipe)).encode
    prompts = askable(read_prompts(recipe.prompts, encode).evaluation, heads)[: recipe.controllability.max_prompts]

    def add_prefix(prompt: Prompt, targets: Mapping[str, int]) -> Prompt:
        return with_targets(prompt, targets, heads)

    return Asked(SFT, prompts, _levels(heads), add_prefix, recipe.controllability, recipe.seed)


def summary(results: ControllabilityResults) -> Iterator[str]:
    """Say per judge the mapped reward, and per judge and dimension the levels, a line each."""
    for seen in results.judges:
        rise = "" if seen.over_sft is None else f", over {SFT} {_said(seen.over_sft)}"
        yield f"{seen.policy}, {seen.judge}: mapped reward {_said(seen.reward)}{rise}"
        for dimension in seen.dimensions:
            got = " ".join(
                f"{cell.expected[dimension.name].value:.2f}" if dimension.name in cell.expected else "–"
                for cell in dimension.cells
            )
            yield f"{seen.policy}, {seen.judge}: {dimension.name} got {got}, Spearman {_said(dimension.spearman)}"


def _said(found: Measured | None) -> str:
    return "–" if found is None else f"{found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"


def run(recipe: PolicyRecipe) -> None:
    """Measure every policy that is there; one JSON file each.

    Raises:
        As `judges_of`; MissingArtifact: there is no SFT policy.
    """
    samplers = Samplers(recipe)
    with judges_of(recipe) as judges:
        asked = asked_of(recipe, judges[SERVICE].heads)
        classifies: dict[str, Classify] = dict(judges)
        found: dict[str, ControllabilityResults] = {}
        for name, folder in policies_of(recipe).items():
            sampler = samplers(name, folder, recipe.evaluation.temperature)
            results = measure(sampler, classifies, replace(asked, policy=name))
            found[name] = results if name == SFT else compared(results, found[SFT])
            write_results(found[name], Path(recipe.work_folder) / CONTROLLABILITY / f"{name}.json")
            print("\n".join(summary(found[name])), flush=True)
