"""Look the pins of constraints.txt up in the index's database of known vulnerabilities: `make audit`.

Where the database is out of reach, or knows none of the packages (as behind a mirror), that is said in one line and is
no failure: it says nothing of the packages. A vulnerability is one, and so is a pin that cannot be read.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PINS = Path(__file__).resolve().parents[1] / "constraints.txt"
PATIENCE_SECONDS = 180
CONNECTION_SECONDS = 10
OUT_OF_REACH = ("ConnectionError", "ProxyError", "Timeout", "SSLError", "ServiceError", "HTTPError")
COMMAND = (
    *(sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip", "--progress-spinner", "off"),
    *("--timeout", str(CONNECTION_SECONDS), "--format", "json"),
)


def audit(pins: Path, command: Sequence[str] = COMMAND, patience_seconds: float = PATIENCE_SECONDS) -> tuple[bool, str]:
    """Return whether nothing speaks against the pins, and what was found, in words."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        asked = [*command, "--requirement", str(pins), "--output", str(report)]
        try:
            ended = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=patience_seconds)
        except subprocess.TimeoutExpired:
            return True, f"audit skipped: the database gave no answer within {patience_seconds:g} seconds"
        if report.exists():
            return verdict(json.loads(report.read_text())["dependencies"])
    lines = ended.stderr.strip().splitlines() or ["no word"]
    if any(name in lines[-1] for name in OUT_OF_REACH):
        return True, "audit skipped: the database is out of reach"
    return False, f"audit failed: {lines[-1]}"


def verdict(packages: Sequence[dict[str, Any]]) -> tuple[bool, str]:
    """Return whether none of the packages has a known vulnerability, and the words for it."""
    known = [package for package in packages if "skip_reason" not in package]
    found = [
        f"{package['name']} {package['version']}: {one['id']}, mended in {mended}"
        for package in known
        for one in package["vulns"]
        for mended in [", ".join(one["fix_versions"]) or "no version"]
    ]
    if found:
        return False, "\n".join(["audit failed:", *found])
    if not known:
        return True, f"audit skipped: the database knows none of the {len(packages)} packages"
    return True, f"audit: no known vulnerability in {len(known)} of {len(packages)} packages that the database knows"


if __name__ == "__main__":
    is_sound, words = audit(PINS)
    sys.stdout.write(f"{words}\n")
    sys.exit(0 if is_sound else 1)
