"""All the checks in order, and their findings as text and as JSON."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from backend.device.interrupt import raise_if_stopped
from backend.device.loading import Loader
from backend.doctor import machine, places, selftest
from backend.doctor.finding import Finding, run_check
from backend.message import Message
from backend.models import BUILTIN, ModelSpec
from backend.settings import Settings
from backend.studio import Studio

_LARGE = 512
"""Pixels a side at which the modes' memory differs enough to be told apart."""
_SIGNS = {"ok": "ok", "note": "note", "problem": "PROBLEM"}


def examine(
    settings: Settings,
    pictures: Path,
    loader: Loader | None = None,
    side: int | None = None,
    stop: threading.Event | None = None,
) -> Iterator[Finding]:
    """Every finding as it is made: the machine, the models, the endpoints, then the self-test.

    What earlier runs learned is left aside, so that the forecasts that are held against measured peaks are those that a
    new user gets.

    Args:
        pictures: the folder that the page keeps its pictures in.
        loader: the running app's, to share what it has loaded, and its queue.
        side: pixels of the self-test's pictures; None takes each model's own size.

    Raises:
        Cancelled: `stop` was set.
    """
    studio = Studio(replace(settings, cache_folder=None), loader=loader)
    yield from run_check("libraries", machine.libraries)
    yield from run_check("processor", machine.processor)
    yield from run_check("memory", machine.memory)
    yield from run_check("disk", partial(machine.disk, settings, pictures))
    yield from run_check("card", partial(machine.card, settings))
    yield from run_check("hub", machine.hub)
    yield from run_check("default model", partial(places.default_model, studio))
    yield from run_check("models", partial(places.models, studio))
    yield from run_check("download", partial(selftest.download_stops, studio, stop))
    yield from run_check("endpoints", partial(places.endpoints, studio))
    for spec in _tested(studio):
        yield from _self_test(studio, spec, side, stop)


def _tested(studio: Studio) -> list[ModelSpec]:
    """The built-in model, and on a graphics card also those that are on this computer already."""
    found = [BUILTIN]
    if studio.loader.device.type != "cpu":
        found += [
            spec
            for spec in studio.models.values()
            if spec != BUILTIN and spec.available and studio.is_here(spec)
        ]
    return found


def _self_test(
    studio: Studio, spec: ModelSpec, side: int | None, stop: threading.Event | None
) -> Iterator[Finding]:
    large, usual = side or max(_LARGE, spec.native_size), side or spec.native_size
    checks = {
        "modes": partial(selftest.modes_agree, studio, spec, large, stop),
        "auto": partial(selftest.auto_takes_the_faster, studio, spec, large, stop),
        "exact": partial(selftest.streamed_is_exact, studio, spec, large, stop),
        "job": partial(selftest.job_runs, studio, spec, usual, stop),
        "remote": partial(selftest.remote_agrees, studio, spec, usual, stop),
        "low memory": partial(selftest.offloading_agrees, studio, spec, usual, stop),
    }
    for name, check in checks.items():
        raise_if_stopped(stop)
        yield from run_check(f"{spec.name}: {name}", check)


def print_findings(
    settings: Settings, pictures: Path, *, as_data: bool = False, side: int | None = None
) -> int:
    """Print each finding as it is made, or all of them as JSON at the end; 0 if all is well, else 1."""
    _silence_progress_bars()
    findings = []
    for finding in examine(settings, pictures, side=side):
        findings.append(finding)
        if not as_data:
            _write(as_line(finding))
    _write(as_json(findings) if as_data else f"\n{conclusion(findings)}")
    return 0 if all_well(findings) else 1


def _write(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()  # a self-test takes seconds, and the person shall see how far it is


def _silence_progress_bars() -> None:
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


def all_well(findings: Iterable[Finding]) -> bool:
    return not any(finding.status == "problem" for finding in findings)


def conclusion(findings: Sequence[Finding]) -> Message:
    """One sentence for a person."""
    problems = sum(finding.status == "problem" for finding in findings)
    if problems == 1:
        return Message("1 thing does not work; it is marked above.")
    if problems:
        return Message("{count} things do not work; they are marked above.", count=problems)
    return Message("All is well.")


def as_line(finding: Finding) -> str:
    """A finding for a terminal, in English."""
    return without_home(f"{_SIGNS[finding.status]:8}{finding.message}")


def as_json(findings: Sequence[Finding]) -> str:
    """All of them, with their figures. `ok` is what the exit status says."""
    data: dict[str, Any] = {
        "ok": all_well(findings),
        "findings": [
            {
                "check": finding.check,
                "status": finding.status,
                "text": str(finding.message),
                "figures": dict(finding.figures),
            }
            for finding in findings
        ],
    }
    return without_home(json.dumps(data, indent=2, ensure_ascii=False, default=str))


def without_home(text: str) -> str:
    """The text with the home folder as `~`: its path names the person, and this goes into public bug reports."""
    home = str(Path.home())
    return text if home in ("/", "") else text.replace(home, "~")
