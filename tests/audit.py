"""Known holes in the versions of requirements.lock: what `make audit` runs.

    python -m tests.audit

Ends with 1 if there is one. Where the advisory database cannot be reached it says so in capitals and ends with 0, so
that `make check` works offline and yet nobody takes its silence for an all-clear.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

LOCK = Path(__file__).parent.parent / "requirements.lock"


def main() -> int:
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes", "--format", "json"]
    done = subprocess.run(
        [*command, "--progress-spinner", "off", "--requirement", str(LOCK)],
        capture_output=True,
        text=True,
        timeout=600,
    )
    try:
        told = json.loads(done.stdout)
    except ValueError:  # it ends with a stack trace where nothing answers
        told = {"dependencies": []}
    code, sentence = judge(told)
    sys.stdout.write(f"{sentence}\n")
    if code:
        sys.stdout.write(done.stdout)
    return code


def judge(told: dict[str, Any]) -> tuple[int, str]:
    """(exit code, what to say) about pip-audit's JSON."""
    packages = told["dependencies"]
    holes = [f"{package['name']} {hole['id']}" for package in packages for hole in package.get("vulns", ())]
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    if holes:
        return 1, f"{len(holes)} known holes in {LOCK.name}: {', '.join(holes)}."
    if not packages or len(unknown) == len(packages):
        return (
            0,
            f"NOT AUDITED: the advisory database could not be reached, so nothing is known about {LOCK.name}.",
        )
    if unknown:
        return 0, f"PARTLY AUDITED: no known hole, but nothing is known about {', '.join(unknown)}."
    return 0, f"No known hole in the {len(packages)} packages of {LOCK.name}."


if __name__ == "__main__":
    sys.exit(main())
