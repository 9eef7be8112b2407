"""Stage: what trained policies learned, as one HTML page with pictures: `<work>/report/report.html`.

Reads the logs and the JSON results of runs; what is not there is said to be missing. No script, no other host. Measures
nothing itself.
"""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Final

from training.errors import DamagedArtifact
from training.figures.markup import Element, element, missing, paragraph, written
from training.policy.configs import PolicyRecipe
from training.policy.report_controllability import controllability_section
from training.policy.report_dpa import dpa_section
from training.policy.report_learning import learning_section, named, service_section
from training.policy.results import Controllability, ControllabilityResults, read_results

NAME: Final = "report"
PAGE: Final = "report.html"
CONTROLLABILITY: Final = "controllability"
"""The folder of a run where a JSON file per policy lies."""
HEAD: Final = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8" />
<meta name="viewport" content="width=device-width, initial-scale=1" />
"""
STYLE: Final = """
.shade1 { --colour: var(--l3); } .shade2 { --colour: var(--l4); } .shade3 { --colour: var(--l6); }
.shade4 { --colour: var(--l8); }
line.interval { stroke: var(--colour); stroke-width: 1.5; }
.ring-line { fill: none; stroke: var(--line); stroke-width: 1; }
.web { fill: var(--colour); fill-opacity: .1; stroke: var(--colour); stroke-width: 2; stroke-linejoin: round; }
"""


def page(title: str, runs: Mapping[str, Sequence[Path]]) -> str:
    """Write the page."""
    style = files("training.figures").joinpath("style.css").read_text(encoding="utf-8") + STYLE
    head = f"{HEAD}{written(element('title', None, title))}\n<style>\n{style}</style>\n</head>\n"
    return f"{head}{written(_body(title, runs))}\n</html>\n"


def _body(title: str, runs: Mapping[str, Sequence[Path]]) -> Element:
    controlled, problems = _controllability(runs)
    sections = {
        "Learning curves": learning_section(runs),
        "Directions (DPA)": dpa_section(runs),
        "Controllability (MOSLIM)": [*controllability_section(controlled), *problems],
        "The service": service_section(runs),
    }
    names = [(f"section-{index}", name) for index, name in enumerate(sections)]
    links = [element("li", None, element("a", {"href": f"#{place}"}, name)) for place, name in names]
    parts = [element("section", {"id": place}, element("h2", None, name), *sections[name]) for place, name in names]
    navigation = element("nav", {"aria-label": "Sections"}, element("ul", None, *links))
    seeds = ", ".join(f"{name} ({len(folders)} seeds)" if len(folders) > 1 else name for name, folders in runs.items())
    header = element("header", None, element("h1", None, title), paragraph(f"Runs: {seeds}."), navigation)
    return element("body", None, header, element("main", None, *_absent(runs), *parts))


def _absent(runs: Mapping[str, Sequence[Path]]) -> list[Element]:
    lost = [(name, folder) for name, folders in runs.items() for folder in folders if not folder.is_dir()]
    return [missing(f"{name}: there is no work folder {folder.name}.") for name, folder in lost]


def _controllability(
    runs: Mapping[str, Sequence[Path]],
) -> tuple[dict[str, dict[str, Sequence[Controllability]]], list[Element]]:
    """Read what was measured of every policy, by seed; also say what cannot be read."""
    found: dict[str, dict[str, Sequence[Controllability]]] = {}
    problems = []
    for run, folders in runs.items():
        for folder in folders:
            seed = f", {folder.name}" if len(folders) > 1 else ""
            for path in sorted((folder / CONTROLLABILITY).glob("*.json")):
                policy = named(run, path.stem)
                try:
                    judges = read_results(ControllabilityResults, path).judges
                    found.setdefault(policy, {})[f"{policy}{seed}"] = judges
                except DamagedArtifact as error:
                    problems.append(missing(f"{run}{seed}: {error}"))
    return found, problems


def run(recipe: PolicyRecipe) -> None:
    """Write the page and print where it is.

    Raises:
        InvalidRecipe: `report.runs` is not understood.
    """
    work = Path(recipe.work_folder)
    text = page(recipe.report.title, recipe.report.folders(work))
    target = work / NAME / PAGE
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{PAGE}.partial")
    beside.write_text(text, encoding="utf-8")
    beside.replace(target)
    print(f"wrote {target}: {len(text.encode()) / 1024:.0f} KiB")
