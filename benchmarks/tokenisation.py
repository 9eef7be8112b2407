"""Logical tokens a second with the real Llama 3 tokenizer on real text, beside the naive way, in one run.

    python -m benchmarks.tokenisation

Logical tokens are those of whole conversations: a prompt counts once per response. The naive way is what a user would
write: render every whole conversation and give it to the tokenizer. Both get a thread for each core, in a process held
to so many cores, and take turns; every round has prompts that neither has seen, and the ids of both must be equal.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeAlias

from tokenizers import Tokenizer
from transformers import AutoTokenizer

from app.domain import Item, TokenizedItem
from app.text.chat_template import ChatTemplate
from app.text.tokenization import load_tokenizer
from benchmarks.machine import describe
from benchmarks.real_text import Workload, workloads
from benchmarks.results_files import RESULTS, listed, write_results

SHARED = Path(__file__).resolve().parents[2] / "shared"
NOTE = (
    "Logical tokens a second of wall-clock time: a prompt counts once per response. Medians over rounds in which the "
    "two ways take turns, each with prompts that neither has seen; the ids of both were equal in every round. "
    "`got` is how many cores' worth of CPU time other programs left: where it is 1 on two cores, the rate is that of "
    "one core. Beside it the same by CPU seconds, which other programs disturb least."
)

Ids: TypeAlias = list[list[list[int]]]
"""Of every conversation of every item."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One workload on so many cores, both ways: medians over the rounds, rates in logical tokens a second."""

    workload: str
    cores: int
    logical_tokens: int
    rate: float
    naive_rate: float
    ratio: float
    ratio_lowest: float
    ratio_highest: float
    cpu_rate: float
    """Logical tokens a second of CPU time: what a core does that is free."""
    cpu_ratio: float


def timed(tokenize: Callable[[Sequence[Item]], Any], items: Sequence[Item]) -> tuple[Any, float, float]:
    """Return what tokenising the items gives, and the wall-clock and CPU seconds it took."""
    cpu, wall = time.process_time(), time.perf_counter()
    tokenized = tokenize(items)
    return tokenized, time.perf_counter() - wall, time.process_time() - cpu


def naive_ids(tokenizer: Any, template: ChatTemplate, item: Item) -> list[list[int]]:
    """Render and tokenise every whole conversation of the item, one by one."""
    texts = (template.conversations(item.prompt, [response])[0] for response in item.responses)
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]


def whole_ids(items: Sequence[TokenizedItem]) -> Ids:
    """Return the ids of whole conversations."""
    return [[[*one.prefix_ids, *one.response_ids] for one in item.conversations] for item in items]


def measure(cores: int, folder: Path, loads: Sequence[Workload]) -> list[Measurement]:
    """Measure every workload in this process, held to so many cores, with a thread for each."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    exact = load_tokenizer(folder, max_conversation_tokens=100_000)
    naive = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    template = ChatTemplate(naive)
    with ThreadPoolExecutor(cores) as pool:

        def exactly(items: Sequence[Item]) -> list[TokenizedItem]:
            return list(pool.map(exact.encode, items))

        def naively(items: Sequence[Item]) -> Ids:
            return list(pool.map(lambda item: naive_ids(naive, template, item), items))

        return [_compare(load, cores, exactly, naively) for load in loads]


def _compare(
    load: Workload,
    cores: int,
    exactly: Callable[[Sequence[Item]], list[TokenizedItem]],
    naively: Callable[[Sequence[Item]], Ids],
) -> Measurement:
    """Time both in turn; the first round only warms up."""
    rounds = []
    for items in load.rounds:
        tokenized, *seconds = timed(exactly, items)
        expected, *naive_seconds = timed(naively, items)
        if whole_ids(tokenized) != expected:
            raise SystemExit(f"{load.name}: the ids are not those of the whole conversations")
        rounds.append((sum(len(ids) for item in expected for ids in item), seconds, naive_seconds))
    del rounds[0]
    ratios = [naive_wall / wall for _, (wall, _), (naive_wall, _) in rounds]
    return Measurement(
        workload=load.name,
        cores=cores,
        logical_tokens=round(statistics.median(tokens for tokens, _, _ in rounds)),
        rate=statistics.median(tokens / wall for tokens, (wall, _), _ in rounds),
        naive_rate=statistics.median(tokens / wall for tokens, _, (wall, _) in rounds),
        ratio=statistics.median(ratios),
        ratio_lowest=min(ratios),
        ratio_highest=max(ratios),
        cpu_rate=statistics.median(tokens / cpu for tokens, (_, cpu), _ in rounds),
        cpu_ratio=statistics.median(naive_cpu / cpu for _, (_, cpu), (_, naive_cpu) in rounds),
    )


def table(measurements: Sequence[Measurement]) -> str:
    """Return the measurements as a Markdown table."""
    lines = [
        "| workload | cores | logical tokens/s | naive | ratio (lowest – highest) | got | per CPU s | CPU ratio |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row.workload} | {row.cores} | **{row.rate:,.0f}** | {row.naive_rate:,.0f} "
        f"| {row.ratio:.2f} ({row.ratio_lowest:.2f} – {row.ratio_highest:.2f}) "
        f"| {row.rate / row.cpu_rate:.2f} | {row.cpu_rate:,.0f} | {row.cpu_ratio:.2f} |"
        for row in measurements
    ]
    return "\n".join(lines)


def write(folder: Path, measurements: Sequence[Measurement], loads: Sequence[Workload], facts: Any) -> None:
    """Write tokenisation.json and tokenisation.md."""
    descriptions = {load.name: load.description for load in loads}
    document = {"facts": facts, "workloads": descriptions, "measurements": [asdict(row) for row in measurements]}
    title = "# Tokenisation with the Llama 3 tokenizer, beside the naive way"
    write_results(folder, "tokenisation", document, title, NOTE, table(measurements), listed(descriptions | facts))


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tokenisation", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", help="measure the workloads whose name holds this")
    parser.add_argument("--data", type=Path, default=SHARED / "data")
    parser.add_argument("--tokenizer", type=Path, default=SHARED / "llama3-tokenizer")
    parser.add_argument("--out", type=Path, help=f"write the results there (as in {RESULTS.name}/)")
    return parser.parse_args()


def main() -> None:
    """Measure each number of cores in a process of its own, print the table and write the results."""
    options = parse_options()
    if not ((options.data / "ratings").is_dir() and (options.tokenizer / "tokenizer.json").exists()):
        sys.exit(f"skipped: needs real text in {options.data} and the Llama 3 tokenizer in {options.tokenizer}")
    tokenizer = Tokenizer.from_file(str(options.tokenizer / "tokenizer.json"))
    loads = workloads(options.data, tokenizer, options.rounds + 1)
    loads = [load for load in loads if (options.only or "") in load.name]
    measurements: list[Measurement] = []
    for cores in options.cores:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            measurements += process.submit(measure, cores, options.tokenizer, loads).result()
    print(table(measurements))
    if options.out:
        others = f"{os.getloadavg()[0]:.1f} programs wanted a core on average in the last minute, this one included"
        write(options.out, measurements, loads, {"rounds": str(options.rounds), "load": others} | describe())


if __name__ == "__main__":
    main()
