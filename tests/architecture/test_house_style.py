"""The limits and habits of the house that no linter knows: sizes, names, and what may be said in one place only."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(path for package in ("app", "training", "benchmarks") for path in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
MAX_FILE_LINES = 350
MAX_FUNCTION_LINES = 50
VAGUE_FILES = {"utils.py", "util.py", "common.py", "helpers.py", "misc.py"}
VAGUE_CLASSES = ("Manager", "Handler", "Helper", "Utils")

every_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def num_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count a function's lines from `def` on, its docstring left out."""
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    if ast.get_docstring(function) is None:
        return lines
    docstring = function.body[0]
    return lines - ((docstring.end_lineno or docstring.lineno) - docstring.lineno + 1)


def is_definition(node: ast.stmt) -> bool:
    """Say whether a statement may stand at module level: an import, a constant, a definition, a docstring."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    if isinstance(node, ast.If):
        return ast.unparse(node.test) in {"__name__ == '__main__'", "TYPE_CHECKING"}
    allowed = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.ClassDef)
    return isinstance(node, (*allowed, ast.FunctionDef, ast.AsyncFunctionDef))


def modules_that_say(word: str) -> set[str]:
    """Find the modules whose code, comments and docstrings left out, has this name, attribute or keyword."""
    return {str(path.relative_to(ROOT)) for path in MODULES if word in names_in(path)}


@cache
def names_in(path: Path) -> frozenset[str]:
    names: set[str] = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.keyword) and node.arg:
            names.add(node.arg)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.name for alias in node.names} | {getattr(node, "module", None) or ""}
    return frozenset(names)


@pytest.mark.parametrize("path", [*MODULES, *TESTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_FILE_LINES
    long = {f.name: num_lines(f) for f in functions(parsed(path)) if num_lines(f) > MAX_FUNCTION_LINES}
    assert not long


@every_module
def test_names_say_what_a_thing_is(path: Path) -> None:
    assert path.name not in VAGUE_FILES
    classes = [node.name for node in ast.walk(parsed(path)) if isinstance(node, ast.ClassDef)]
    assert not [name for name in classes if name.endswith(VAGUE_CLASSES)]


@every_module
def test_importing_a_module_does_no_work(path: Path) -> None:
    work = [ast.unparse(node) for node in parsed(path).body if not is_definition(node)]
    assert not work


def test_one_caller_of_the_chat_template() -> None:
    assert modules_that_say("apply_chat_template") == {"app/text/chat_template.py"}


def test_one_home_for_metrics() -> None:
    for kind in ("Counter", "Gauge", "Histogram", "Summary"):
        users = {module for module in modules_that_say(kind) if "prometheus_client" in (ROOT / module).read_text()}
        assert users <= {"app/serving/metrics.py"}


def test_the_environment_is_read_by_settings_only() -> None:
    assert {m for m in modules_that_say("environ") | modules_that_say("getenv") if m.startswith("app/")} <= {
        "app/settings.py"
    }


def test_no_pickle_is_ever_opened_and_no_remote_code_run() -> None:
    assert not modules_that_say("pickle")
    for path in MODULES:
        calls = [node for node in ast.walk(parsed(path)) if isinstance(node, ast.Call)]
        loads = [call.func for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "load"]
        assert "torch.load" not in {ast.unparse(load) for load in loads}, path
        trust = [word.value for call in calls for word in call.keywords if word.arg == "trust_remote_code"]
        assert {ast.unparse(value) for value in trust} <= {"False"}, path
