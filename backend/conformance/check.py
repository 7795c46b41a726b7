"""One check, and how it is run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from backend.conformance.target import Target
from backend.errors import SkippedCheck
from backend.report import Direction

Run = Callable[[Target], None]


@dataclass(frozen=True)
class Check:
    """`run` raises `MismatchError` with what came if that is wrong, and `SkippedCheck` if the check does not apply."""

    name: str
    direction: Direction
    run: Run


def register(checks: list[Check], direction: Direction, name: str) -> Callable[[Run], Run]:
    """A decorator that makes a function the check `name` and appends it to `checks`."""

    def add(run: Run) -> Run:
        checks.append(Check(name, direction, run))
        return run

    return add


@dataclass(frozen=True)
class CheckResult:
    name: str
    direction: Direction
    verdict: str
    """ok, FAILED or skipped."""
    detail: str = ""


def run_check(target: Target, check: Check) -> CheckResult:
    """One check's result; whatever the endpoint does is a result too."""
    if (target.encode_url if check.direction == "encode" else target.decode_url) is None:
        return CheckResult(check.name, check.direction, "skipped", "no address given")
    try:
        check.run(target)
    except SkippedCheck as reason:
        return CheckResult(check.name, check.direction, "skipped", str(reason))
    except Exception as error:  # noqa: BLE001 - another's server may cause anything, and that is the finding
        return CheckResult(check.name, check.direction, "FAILED", f"{error}" or type(error).__name__)
    return CheckResult(check.name, check.direction, "ok")
