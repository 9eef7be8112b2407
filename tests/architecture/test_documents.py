"""What README.md and docs/operations.md repeat from the code agrees with it: settings, metrics, routes, errors."""

import re
from collections.abc import Iterator
from pathlib import Path

from app.api.problems import PROBLEMS, UNFORESEEN
from app.main import create_app
from app.serving.metrics import METRICS
from app.settings import ENVIRONMENT_PREFIX, Settings, allowed_values

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
OPERATIONS = ROOT / "docs" / "operations.md"


def section(document: Path, title: str) -> str:
    return re.split(r"^## ", document.read_text().partition(f"\n## {title}\n")[2], flags=re.MULTILINE)[0]


def table(text: str) -> list[list[str]]:
    """Return the rows of a section's table, without its head."""
    rows = [line.strip().strip("|").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def shown_default(default: object) -> str:
    if default is None or default == ():
        return "–"
    return str(default).lower() if isinstance(default, bool) else str(default)


def tree_paths(text: str) -> Iterator[str]:
    """Yield the paths of an indented tree: two spaces a level, folders end in a slash, a phrase after two spaces."""
    folders: list[str] = []
    for line in text.partition("```\n")[2].partition("```")[0].splitlines():
        indent, name = re.match(r"( *)(\S+)", line).groups()  # type: ignore[union-attr]
        del folders[len(indent) // 2 :]
        yield "".join(folders) + name
        if name.endswith("/"):
            folders.append(name)


def test_the_readme_lists_every_setting_with_its_default() -> None:
    expected = [
        [f"`{name}`", shown_default(field.default), allowed_values(field), str(field.description)]
        for name, field in Settings.model_fields.items()
    ]
    assert table(section(README, "Settings")) == expected
    assert f"`{ENVIRONMENT_PREFIX}" in section(README, "Settings")


def test_make_help_shows_the_defaults_of_the_settings() -> None:
    address = Settings()
    assert f"[HOST={address.host}] [PORT={address.port}]" in (ROOT / "Makefile").read_text()
    assert f"http://{address.host}:{address.port}" in README.read_text()
    assert address.weights in README.read_text()


def test_the_readme_lists_every_metric() -> None:
    expected = [
        [f"`{metric.name}{{{','.join(metric.labels)}}}`".replace("{}", ""), metric.kind, metric.meaning]
        for metric in METRICS
    ]
    assert table(section(README, "Metrics")) == expected


def test_operations_say_what_to_do_about_every_metric() -> None:
    named = [name for row in table(section(OPERATIONS, "Metrics")) for name in re.findall(r"`(armoserve_\w+)", row[0])]
    assert sorted(named) == sorted(metric.name for metric in METRICS)


def test_the_readme_lists_every_route() -> None:
    paths = create_app(Settings()).openapi()["paths"]
    exposed = {f"`{method.upper()} {path}`" for path, operations in paths.items() for method in operations}
    listed = [row[0] for row in table(section(README, "Routes"))]
    assert len(listed) == len(set(listed))
    assert set(listed) == exposed | {"`GET /docs`", "`GET /openapi.json`"}


def test_operations_list_every_error() -> None:
    rows = table(section(OPERATIONS, "Errors"))
    listed = {(int(row[0]), row[1].strip("`")) for row in rows}
    assert listed == {(problem.status, problem.type) for problem in [*PROBLEMS.values(), UNFORESEEN]}
    assert len(rows) == len(listed)


def test_the_tree_names_every_file_and_no_other(tracked_files: list[str]) -> None:
    paths = list(tree_paths(section(README, "What is where")))
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert len(paths) == len(set(paths))
    files = {path for path in paths if not path.endswith("/")}
    closed_folders = {p for p in paths if p.endswith("/") and not any(q != p and q.startswith(p) for q in paths)}
    due = {name for name in tracked_files if not name.endswith("/__init__.py")}
    assert {name for name in due - files if not name.startswith(tuple(closed_folders))} == set()
