"""armoserve beside what a user would pick instead, in one run, with the same scores.

    python -m benchmarks.peers [--quick] [--rounds 3] [--layers 2] [--width 512] [--vllm URL] [--infinity URL]

On the CPU, in float32: one checkpoint that every engine can load (a sequence classifier of random weights), texts that
are new in each round, rounds that alternate.
"""

import argparse
import asyncio
import os
import tempfile
import time
from pathlib import Path
from typing import Final

import torch

from app.text.tokenization import ConversationTokenizer, load_tokenizer
from benchmarks.machine import describe
from benchmarks.peers.checkpoint import TOKENIZER, ClassifierSize, write_classifier
from benchmarks.peers.engines import Classifier, InProcess, OneByOne, PaddedBatches, Peer, TextClassification
from benchmarks.peers.growth import curves, size_curves
from benchmarks.peers.report import Measured, detail, ratio_table, summary, write
from benchmarks.peers.rounds import compare
from benchmarks.peers.running_servers import HOW_TO_START, running_servers
from benchmarks.peers.served import ArmoserveServed, armoserve_command, running, served_peers
from benchmarks.peers.service_cost import Ratio, prompt_seen_again, served_over_engine, singles_over_one
from benchmarks.peers.texts import Prose
from benchmarks.peers.workloads import Workload, best_of_n, mixed_lengths, pairs, shared_system_prompt
from benchmarks.results_files import RESULTS

LONGEST_CONVERSATION: Final = 8192


def all_workloads(prose: Prose, *, quick: bool) -> list[Workload]:
    """Return what every engine is asked."""
    few = 3 if quick else 6
    return [
        best_of_n(prose, 16),
        mixed_lengths(prose, 8 if quick else 16),
        shared_system_prompt(prose, few, warm=False),
        shared_system_prompt(prose, few, warm=True),
        pairs(prose, few),
    ]


async def measure(options: argparse.Namespace, folder: Path) -> Measured:
    """Measure all of it; what there is so far is printed and written as it comes."""
    size = ClassifierSize(options.layers, options.width)
    weights = write_classifier(folder / "classifier", size)
    prose = Prose(weights)
    tokenizer = load_tokenizer(weights, max_conversation_tokens=LONGEST_CONVERSATION)
    workloads = all_workloads(prose, quick=options.quick)
    facts = {"model": f"Llama sequence classifier, {size}, random weights, float32", "rounds": str(options.rounds)}
    measured = Measured(facts | describe(), {one.name: one.description for one in workloads})
    measured.ratios += await service_cost(folder, prose, options)
    async with (
        running_servers(options.vllm, options.infinity) as others,
        served_peers(folder, weights) as (armoserve, openrlhf),
    ):
        classifier = Classifier(weights)
        padded, own = PaddedBatches(classifier), InProcess(weights)
        peers: list[Peer] = [OneByOne(classifier), padded, TextClassification(classifier), openrlhf]
        peers += [*others, own, armoserve]
        for workload in workloads:
            rows = await compare(workload, peers, tokenizer, rounds=options.rounds, baseline=padded.name)
            print(detail(rows), flush=True)
            measured.comparisons += rows
            write(options.out, measured)
        group = best_of_n(prose, 16)
        for server in (armoserve, openrlhf):
            measured.ratios.append(await singles_over_one(group, server, tokenizer, options.rounds))
        uncached = InProcess(weights, prefix_cache_bytes=0)
        measured.seen_again = await prompt_seen_again(group, armoserve, uncached, tokenizer, options.rounds)
        write(options.out, measured)
        if not options.quick:
            measured.curves += await curves(prose, tokenizer, (padded, openrlhf, armoserve), (openrlhf, armoserve))
    if not options.quick:
        measured.curves += await size_curves(prose, tokenizer)
    return measured


async def service_cost(folder: Path, prose: Prose, options: argparse.Namespace) -> list[Ratio]:
    """Measure the model in weights/default, served and in this process."""
    tokenizer: ConversationTokenizer = load_tokenizer(TOKENIZER, max_conversation_tokens=LONGEST_CONVERSATION)
    own = InProcess(TOKENIZER)
    workload = mixed_lengths(prose, 8 if options.quick else 12)
    async with running(folder / "default", armoserve_command(TOKENIZER)) as server:
        return await served_over_engine(workload, ArmoserveServed(server), own, tokenizer, options.rounds)


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=HOW_TO_START, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer conversations, two rounds, no curves")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--layers", type=int, default=ClassifierSize().layers)
    parser.add_argument("--width", type=int, default=ClassifierSize().width)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--vllm", metavar="URL", help="vLLM's pooling server, started as shown below")
    parser.add_argument("--infinity", metavar="URL", help="infinity's server, started as shown below")
    parser.add_argument("--write-checkpoint", type=Path, metavar="FOLDER", help="write the weights for those, no more")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 3)
    return options


def main() -> None:
    """Measure, print the tables and write the results."""
    options = parse_options()
    if options.write_checkpoint is not None:
        print(write_classifier(options.write_checkpoint, ClassifierSize(options.layers, options.width)))
        return
    torch.set_num_threads(options.threads)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # for the servers
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        measured = asyncio.run(measure(options, Path(name)))
    measured.facts["minutes"] = f"{(time.monotonic() - began) / 60:.1f}"
    print(summary(measured.comparisons), ratio_table(measured.ratios), sep="\n\n")
    write(options.out, measured)


if __name__ == "__main__":
    main()
