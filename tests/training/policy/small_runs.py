"""A run of each loop that is over in seconds: a policy of random weights, a few prompts, the recipe as a file."""

import json
from pathlib import Path
from typing import Final

from tests.training.policy.toy_rewards import toy_policy
from training.logs import read_log
from training.policy.sft_rows import RESPONSE_OF

LOOPS: Final = ("ppo", "online_dpo", "rloo", "dpa")
RECIPE: Final = """
work_folder = "{work}"
seed = 3
threads = 1
service = {{ url = "{url}", retry_seconds = 120 }}
prompts = {{ files = ["{folder}/prompts.jsonl"] }}
sampling = {{ max_new_tokens = 8 }}
sft = {{ folder = "{folder}/data" }}

[ppo]
steps = {steps}
prompts_per_step = 8
minibatch_size = 8
epochs = 1
learning_rate = 1e-3

[online_dpo]
steps = {steps}
prompts_per_step = 4
minibatch_size = 4
learning_rate = 1e-3

[rloo]
steps = {steps}
prompts_per_step = 4
rows_at_once = 16
learning_rate = 1e-3

[dpa]
components = {components}
iterations = 1
directions = 2
responses_per_direction = 2
max_prompts = {steps}
prompts_per_group = 1
fine_tuning = {{ learning_rate = 1e-3, warmup_steps = 0, epochs = 1.0, batch_size = 16, max_tokens = 512 }}

[dpa.steerlm]
responses_per_prompt = 4
fine_tuning = {{ learning_rate = 1e-3, warmup_steps = 0, epochs = 1.0, batch_size = 16, max_tokens = 512 }}
"""


def write_recipe(folder: Path, url: str, components: tuple[str, ...], steps: int) -> Path:
    """Write all that a run of `steps` steps needs; DPA's are groups of one prompt each."""
    folder.mkdir(parents=True, exist_ok=True)
    turns = [[{"role": "user", "content": f"Question {number}?"}] for number in range(8 * steps)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in turns))
    for kind, column in RESPONSE_OF.items():
        rows = [{"split": "train", "messages": messages, column: f"a b {kind}"} for messages in turns[: 2 * steps]]
        (folder / "data" / kind).mkdir(parents=True)
        (folder / "data" / kind / "made_up.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    toy_policy().save(folder / "work" / "sft")
    file = folder / "recipe.toml"
    file.write_text(
        RECIPE.format(folder=folder, work=folder / "work", url=url, components=list(components), steps=steps)
    )
    return file


def trained_folder(recipe: Path, loop: str) -> Path:
    """Where a run of the recipe saves its policy when all is done."""
    work = recipe.parent / "work"
    return work / "dpa" / "iteration_1" / "policy" if loop == "dpa" else work / loop


def steps_of(recipe: Path, loop: str) -> list[dict[str, float]]:
    """The rows of the run's log, but for what a clock says."""
    work = recipe.parent / "work"
    file = work / "dpa" / "iteration_1" / "log.csv" if loop == "dpa" else work / "logs" / f"{loop}.csv"
    return [{name: value for name, value in row.items() if "seconds" not in name} for row in read_log(file)]
