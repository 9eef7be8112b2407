"""What a benchmark found, as NAME.json for programs and NAME.md for readers. Knows nothing of what was measured."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

RESULTS: Final = Path(__file__).parent / "results"


def write_results(folder: Path, name: str, document: Mapping[str, Any], *sections: str) -> None:
    """Write the document as JSON, and the sections that are not empty as a page; the folder is made where it is none.

    A folder that cannot be written fails the measurement: figures that nobody keeps were measured for nothing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = json.dumps(document, indent=2, ensure_ascii=False)
    (folder / f"{name}.json").write_text(written + "\n", encoding="utf-8")
    (folder / f"{name}.md").write_text("\n\n".join(filter(None, sections)) + "\n", encoding="utf-8")


def listed(facts: Mapping[str, object]) -> str:
    """Return facts as a Markdown list: the machine, the versions, the model."""
    return "\n".join(f"- {name}: {fact}" for name, fact in facts.items())
