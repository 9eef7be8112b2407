"""The model card: README.md of a weights folder. Text and tables only; knows no tensor."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from app.model.manifest import Manifest
from training.metrics import SubsetAccuracy, macro_mean

CARD_FILE: Final = "README.md"
TEST_SECTION: Final = "Test pairs"

HOW: Final = """## How it was made

1. A byte-level BPE tokenizer with Llama 3's special tokens and chat template.
2. A Llama backbone from random weights: a little language modelling on the conversations, then Bradley–Terry on
   preferences and regression on ratings, jointly, for its embeddings as a bag of words. The decoder takes over from
   there exactly: its last layer averages over all tokens it sees. In effect these features are a bag of words in a
   decoder's form; training a whole decoder further (a narrower one) ordered held-out pairs worse.
3. On its frozen features: one ridge regression per objective without intercept; the rewards freed of their rank
   correlation with the `verbosity` reward; a gating network under a Bradley–Terry loss on the freed rewards (ArmoRM).

Settings were chosen on prompts held out of the training split, never on what the table below measures.
Make it again with `python -m training all training/recipes/default.toml`."""

DATA: Final = """## Data

Only the `train` splits of public ratings and preferences under Apache-2.0, MIT and CC-BY-4.0 licences
(sources and digests: `provenance` in `manifest.json`). BEGIN (Dziri et al. 2022) is CC-BY-4.0.
Many responses and some labels were written by commercial or community language models.
Labels given by language models carry the known biases of such judges.

TruthfulQA's two files were published for training judges. They were used for ratings only, never for language
modelling or the tokenizer, and nothing measured on TruthfulQA may be reported for this model.

The objectives ending in `-preferred` are not ratings: each is the share of its comparisons that a response won in
that preference source. `verbosity` is computed from the length of the response; nobody rated it."""

LIMITS: Final = """## Limits

This model is small and was trained in minutes on a few thousand prompts in English. It shows what the service does;
it is no judge of anything that matters. It knows which words go with good answers and nothing of their order, no
facts, no mathematics and no code; outside the kinds of prompts it was trained on its scores are close to chance, as
the table says. Conversations longer than those it was trained on (1,024 tokens) are scored, but nothing is known about
how well. Some training prompts and responses are harmful or offensive: they are there to be told apart."""

READING: Final = """Accuracy is the share of pairs whose chosen response has the higher score; a tie counts as an error.
Intervals are Wilson's, or a bootstrap over groups where several styles of one item (`rmbench-*`) are averaged first.
`hep-*` and `rmbench-code` are measured on the rows that do not overlap the training data. The last column is what
preferring the longer response gives: the score is debiased of verbosity, so it cannot win where length wins.
The benchmarks are public stand-ins made from the same sources as RewardBench's; these are not RewardBench results."""


@dataclass(frozen=True, slots=True)
class Results:
    """Accuracy per subset, of the score and of response length alone, and how the two go together."""

    score: Sequence[SubsetAccuracy]
    length: Sequence[SubsetAccuracy]
    length_correlation: tuple[float, float]
    """Spearman's ρ of score and response length over all responses measured: without the debiasing, with it."""

    def test_mean(self) -> float:
        """Return the macro mean of the score's accuracy over the sources of the test pairs."""
        return macro_mean({result.subset: result.accuracy for result in self.score if result.section == TEST_SECTION})

    def table(self) -> str:
        """Lay the accuracies out as a Markdown table."""
        lines = [
            "| section | subset | pairs | accuracy | 95% interval | longer response |",
            "| --- | --- | ---: | ---: | --- | ---: |",
        ]
        for result, length in zip(self.score, self.length, strict=True):
            lines.append(
                f"| {result.section} | {result.subset} | {result.num_pairs} | {result.accuracy:.3f} "
                f"| {result.low:.3f} – {result.high:.3f} | {length.accuracy:.3f} |"
            )
        return "\n".join(lines)


def card(manifest: Manifest, results: Results | None = None) -> str:
    """Write the card from the manifest and, where they are there, the measured results."""
    parts = [f"# {manifest.name}", manifest.description, HOW, DATA, objectives_table(manifest), LIMITS]
    if results is not None:
        parts += ["## Measured", results.table(), READING]
        if not math.isnan(results.test_mean()):
            parts.append(f"Macro mean over the sources of the test pairs: **{results.test_mean():.3f}**.")
        without, debiased = results.length_correlation
        parts.append(
            f"Rank correlation of the score with the response's actual length in tokens, over all responses measured: "
            f"{without:.2f} without the debiasing, {debiased:.2f} with it. Debiasing removes positive correlation with "
            "the predicted `verbosity` only; rewards that fall with length keep doing so."
        )
    return "\n\n".join(part for part in parts if part) + "\n"


def objectives_table(manifest: Manifest) -> str:
    """Lay the objectives out as a Markdown table."""
    lines = ["## Objectives", "", "| objective | what 1 means | source |", "| --- | --- | --- |"]
    lines += [f"| {each.name} | {each.description} | {each.source} |" for each in manifest.objectives]
    return "\n".join(lines)
