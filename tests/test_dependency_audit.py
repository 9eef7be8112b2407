import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.dependency_audit import audit, verdict

SOUND = {"name": "sound", "version": "1.0", "vulns": []}
FAULTY = {"name": "faulty", "version": "2.0", "vulns": [{"id": "CVE-1", "fix_versions": ["2.1"]}]}
HOPELESS = {"name": "hopeless", "version": "3.0", "vulns": [{"id": "CVE-2", "fix_versions": []}]}
UNKNOWN = {"name": "unknown", "skip_reason": "not found"}


def acting(tmp_path: Path, code: str) -> tuple[str, ...]:
    """A command that takes the place of pip-audit; its last argument is where the report goes."""
    script = tmp_path / "acting.py"
    script.write_text(f"import sys, time, pathlib\n{code}\n")
    return (sys.executable, str(script))


def reporting(packages: list[Any]) -> str:
    return f"pathlib.Path(sys.argv[-1]).write_text({json.dumps(json.dumps({'dependencies': packages}))})"


@pytest.mark.parametrize(
    ("code", "is_sound", "words"),
    [
        (reporting([SOUND, UNKNOWN]), True, "audit: no known vulnerability in 1 of 2 packages that the database knows"),
        (reporting([SOUND, FAULTY]) + "; sys.exit(1)", False, "faulty 2.0: CVE-1, mended in 2.1"),
        (reporting([UNKNOWN]), True, "audit skipped: the database knows none of the 1 packages"),
        (
            "sys.exit('requests.exceptions.ConnectionError: no route')",
            True,
            "audit skipped: the database is out of reach",
        ),
        ("time.sleep(60)", True, "audit skipped: the database gave no answer within 2 seconds"),
        ("sys.exit('No module named pip_audit')", False, "audit failed: No module named pip_audit"),
        ("sys.exit('invalid requirement')", False, "audit failed: invalid requirement"),
    ],
)
def test_what_is_found_fails_and_what_cannot_be_known_is_said(
    tmp_path: Path, code: str, is_sound: bool, words: str
) -> None:
    outcome, said = audit(tmp_path / "pins.txt", acting(tmp_path, code), patience_seconds=2)
    assert outcome is is_sound
    assert words in said


def test_every_finding_is_named() -> None:
    is_sound, said = verdict([FAULTY, SOUND, HOPELESS])
    assert not is_sound
    assert said.splitlines()[1:] == ["faulty 2.0: CVE-1, mended in 2.1", "hopeless 3.0: CVE-2, mended in no version"]
