"""What is committed fits together: the pins, the make targets, and no trace of the machine it was written on."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PIN = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[0-9][0-9A-Za-z.]*)")
MACHINE_PATH = re.compile(rb"(?<![\w.~-])/(?:work|tmp|root|opt|home/\w+)(?:/|\b)")
PACKAGE_HOST = re.compile(rb"pypi[.]org|pythonhosted[.]org|download[.]pytorch[.]org|registry[.]npmjs")
# A vocabulary is whatever the training text held.
VOCABULARY = re.compile(r"(^|/)(tokenizer|vocab)\.json$")


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().split()
    return {canonicalize_name(match["name"]): match["version"] for match in map(PIN.fullmatch, lines) if match}


def requirements(*extras: str) -> Iterator[Requirement]:
    """Yield the dependencies and those of the extras, with the extras of ours that they name."""
    waiting = [Requirement(text) for text in PROJECT["dependencies"]]
    waiting += [Requirement(f"{PROJECT['name']}[{extra}]") for extra in extras]
    while waiting:
        requirement = waiting.pop()
        if requirement.name == PROJECT["name"]:
            named = [PROJECT["optional-dependencies"][extra] for extra in requirement.extras]
            waiting.extend(Requirement(text) for texts in named for text in texts)
        else:
            yield requirement


def imported_distributions(package: str) -> list[set[str]]:
    """Find the distributions that a package of ours imports by name, wherever in its modules.

    Several may fill one namespace, as `opentelemetry`: any of them will do.
    """
    modules: set[str] = set()
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules.add(node.module.split(".")[0])
    foreign = modules - set(sys.stdlib_module_names) - {"app", "training", "benchmarks", "tests"}
    homes = packages_distributions()
    return [{canonicalize_name(home) for home in homes.get(module, [module])} for module in sorted(foreign)]


def test_constraints_are_exact_pins_and_nothing_else() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if not PIN.fullmatch(line)] == []
    assert len(pins()) == len(lines)


def test_every_requirement_is_pinned_within_its_range() -> None:
    pinned = pins()
    for requirement in requirements("dev"):
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not in constraints.txt"
        assert requirement.specifier.contains(version), f"{requirement} is pinned to {version}"


@pytest.mark.parametrize(
    ("package", "extras"),
    [("app", ("otel", "quantization", "fp8", "ray")), ("training", ("training", "policy")), ("tests", ("dev",))],
)
def test_what_is_imported_is_a_declared_dependency(package: str, extras: tuple[str, ...]) -> None:
    declared = {canonicalize_name(requirement.name) for requirement in requirements(*extras)}
    assert [homes for homes in imported_distributions(package) if not homes & declared] == []


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert targets
    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^make (\w+) +\S", shown, re.MULTILINE)) == set(targets[1].split())


def test_commit_hooks_are_the_tools_of_make_check() -> None:
    recipe = (ROOT / "Makefile").read_text().partition("\ncheck:")[2].partition("\n\n")[0]
    hooks = re.findall(r"entry: \.venv/bin/([\w-]+)", (ROOT / ".pre-commit-config.yaml").read_text())
    assert re.findall(r"\t(?:\$\(RUN\) |\$\(VENV\)/bin/)([\w-]+)", recipe) == hooks


@pytest.mark.parametrize("pattern", [MACHINE_PATH, PACKAGE_HOST], ids=["machine path", "package host"])
def test_no_committed_file_names_a_machine(pattern: re.Pattern[bytes], tracked_files: list[str]) -> None:
    guilty = {}
    for name in tracked_files:
        content = (ROOT / name).read_bytes()
        if b"\0" not in content[:8192] and not VOCABULARY.search(name) and (found := pattern.search(content)):
            guilty[name] = found[0]
    assert guilty == {}
