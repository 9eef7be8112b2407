"""What the Dockerfile promises and can be read without an engine: its arguments, its pins, and what it is made of."""

import json
import re
from pathlib import Path

from app import __version__
from app.settings import ENVIRONMENT_PREFIX, Settings

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", "")
SERVE = DOCKERFILE.partition(" AS serve\n")[2]
PIN = re.compile(r"([a-z0-9-]+)==([0-9][0-9.]*)")


def pins(file: Path) -> dict[str, str]:
    lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
    found = [PIN.fullmatch(line.lower().replace("_", "-")) for line in lines]
    return {match[1]: match[2] for match in found if match}


def test_arguments_are_documented_with_their_defaults() -> None:
    arguments = dict(re.findall(r"^ARG (\w+)=(.*)$", DOCKERFILE, re.MULTILINE))
    section = (ROOT / "docs" / "deployment.md").read_text().partition("\n## Image\n")[2].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (\S+) \|", section, re.MULTILINE)
    assert {name: "" if default == "–" else default for name, default in rows} == arguments | {"REVISION": "unknown"}
    head = DOCKERFILE.partition("ARG ")[0]
    assert set(arguments) <= set(re.findall(r"[A-Z_]{4,}", head))


def test_images_are_built_under_the_names_that_the_chart_pulls() -> None:
    text = "".join((ROOT / file).read_text() for file in ("docs/deployment.md", "docker-compose.yaml"))
    tags = set(re.findall(r"\barmoserve:([\w.-]*\w)", text.replace("${VARIANT:-cpu}", "cpu")))
    # tests/helm/test_pod.py: the chart's are these, by its appVersion.
    assert tags - {"8000"} == {f"{__version__}-cpu", f"{__version__}-cuda"}


def test_what_only_an_image_has_is_pinned_and_pinned_once() -> None:
    own = ROOT / "deploy" / "image-constraints.txt"
    assert len(pins(own)) == sum(not line.startswith("#") for line in own.read_text().splitlines())
    assert set(pins(own)) & set(pins(ROOT / "constraints.txt")) == set()
    assert "PIP_CONSTRAINT=" in DOCKERFILE
    assert "--no-constraint" not in DOCKERFILE


def test_the_last_stage_installs_nothing_and_serves_as_nobody() -> None:
    assert not re.search(r"\b(pip|apt-get|apt|gcc|make)\b", SERVE)
    assert re.search(r"^USER 10001:10001$", SERVE, re.MULTILINE)
    assert SERVE.index("USER 10001") > SERVE.rindex("RUN ")


def test_signals_reach_the_server() -> None:
    (entry,) = re.findall(r"^ENTRYPOINT (.*)$", SERVE, re.MULTILINE)
    assert json.loads(entry) == ["python3", "-m", "app"]
    assert "STOPSIGNAL SIGTERM" in SERVE


def test_settings_of_the_image_exist_and_the_health_check_asks_where_it_listens() -> None:
    named = re.findall(rf"{ENVIRONMENT_PREFIX}(\w+)=(\S+)", SERVE)
    assert {name.lower() for name, _ in named} <= set(Settings.model_fields)
    assert dict(named)["PORT"] == str(Settings().port) == re.findall(r"^EXPOSE (\d+)$", SERVE, re.MULTILINE)[0]
    (check,) = re.findall(r"^HEALTHCHECK .*CMD (\[.*\])$", SERVE, re.MULTILINE)
    program = json.loads(check)[2]
    assert f"os.environ['{ENVIRONMENT_PREFIX}PORT']" in program
    assert "/livez" in program


def test_what_is_copied_is_let_in() -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    sources = {source for line in copied for source in line.split() if not source.startswith("$")}
    assert {source for source in sources if not {source, source.split("/")[0]} & let_in} == set()
    assert all((ROOT / source).exists() for source in sources)
