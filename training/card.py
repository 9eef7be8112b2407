"""The model card: README.md of a weights folder. Text and tables only; knows no tensor."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from app.model.manifest import Manifest
from training.metrics import SubsetAccuracy

CARD_FILE: Final = "README.md"


@dataclass(frozen=True, slots=True)
class Results:
    """Accuracy per subset, of the score and of response length alone."""

    score: Sequence[SubsetAccuracy]
    length: Sequence[SubsetAccuracy]

    def by_subset(self, section: str) -> dict[str, float]:
        """Return the accuracies of one section's subsets."""
        return {result.subset: result.accuracy for result in self.score if result.section == section}

    def table(self) -> str:
        """Lay the accuracies out as a Markdown table."""
        lines = [
            "| section | subset | pairs | accuracy | 95% interval | longer response wins |",
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
    parts = [f"# {manifest.name}", manifest.description]
    if results is not None:
        parts += ["## Results", results.table()]
    return "\n\n".join(parts) + "\n"
