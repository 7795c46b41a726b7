"""`python -m tests.fuzz`: a campaign against an endpoint in a process of its own, with its memory watched.

    python -m tests.fuzz --requests 50000 --minutes 60

Prints JSON last; exits with 1 if anything was found.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import requests
from hypothesis import HealthCheck, Phase, given, settings

from tests.fuzz.attacks import Attack, attacks, valid
from tests.fuzz.campaign import Tally, attack, exchange
from tests.fuzz.described import cases, try_case

DESCRIBED_SHARE = 0.25
ROUND = 500
"""Requests between two looks at the memory."""
LIMITS = ("--max-pixels", "65536", "--max-body", "4", "--max-batch", "4", "--device", "cpu")


@contextmanager
def endpoint(log: Path) -> Iterator[tuple[str, psutil.Process]]:
    """The served built-in VAE in a process of its own: its URL, and the process."""
    command = [sys.executable, "-m", "backend.endpoint", "--port", "0", *LIMITS]
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + 120
            while not (found := re.search(r"running on (http://[\w.:]+)", log.read_text())):
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            while requests.get(f"{found[1]}/ready", timeout=10).status_code != 200:
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            yield found[1], psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait(60)


def fire(strategy: Any, shoot: Callable[[Any], None], count: int) -> None:
    """Draw `count` examples and shoot each. What is found is kept in a tally, so nothing is raised or shrunk."""

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def shots(example: Any) -> None:
        shoot(example)

    shots()


def still_sound(url: str, expected: bytes) -> str | None:
    """Whether the server that took all this still answers as at the start, with no place left taken."""
    probe = _probe()
    if exchange(url, probe).body != expected:
        return "a valid request no longer gives the bytes that it gave at the start"
    deadline = time.monotonic() + 10
    while 'places_taken{device="0"} 0.0' not in (text := requests.get(f"{url}/metrics", timeout=10).text):
        if time.monotonic() > deadline:
            return "places stay taken: " + "".join(
                line for line in text.splitlines() if "places_taken{" in line
            )
        time.sleep(0.2)
    return None


def _probe() -> Attack:
    return next(one for one in valid() if dict(one.query).get("output_type") == "pt")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--requests", type=int, default=5000, help="How many to send. (%(default)s)")
    parser.add_argument("--minutes", type=float, default=10.0, help="The longest time to take. (%(default)g)")
    options = parser.parse_args()
    tally, memory = Tally(), []
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "endpoint.log"
        with endpoint(log) as (url, process), requests.Session() as session:
            expected = exchange(url, _probe()).body
            described = cases(url)
            while tally.requests < options.requests and time.monotonic() - started < options.minutes * 60:
                before = tally.requests
                fire(attacks(), lambda one: attack(url, one, tally), int(ROUND * (1 - DESCRIBED_SHARE)))
                fire(
                    described, lambda case: try_case(url, case, session, tally), int(ROUND * DESCRIBED_SHARE)
                )
                if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                    tally.findings.append("the server is dead")
                    break
                memory.append((tally.requests, process.memory_info().rss))
                seconds = time.monotonic() - started
                print(
                    f"{tally.requests} requests, {seconds:.0f} s, {memory[-1][1] / 1e6:.0f} MB, "
                    f"{len(tally.findings)} findings, {dict(sorted(tally.statuses.items()))}",
                    flush=True,
                )
                assert tally.requests > before
            else:
                if (wrong := still_sound(url, expected)) is not None:
                    tally.findings.append(wrong)
        traces = [line for line in log.read_text().splitlines() if "Traceback" in line]
    for finding in dict.fromkeys(tally.findings):
        print("FOUND", finding)
    for trace in traces[:5]:
        print("TRACE", trace)
    for seconds, what in sorted(tally.slow, reverse=True)[:5]:
        print(f"SLOW {seconds:.1f} s {what}")
    print(json.dumps(summary(tally, memory, len(traces), time.monotonic() - started)))
    return 1 if tally.findings or traces else 0


def summary(tally: Tally, memory: list[tuple[int, int]], traces: int, seconds: float) -> dict[str, Any]:
    """The figures, JSON-ready; the slope is over the second half, when caches and pools have filled."""
    later = memory[len(memory) // 2 :]
    slope = float(np.polyfit(*zip(*later, strict=True), 1)[0]) if len(later) > 2 else None
    return {
        "requests": tally.requests,
        "by_status": dict(sorted(tally.statuses.items())),
        "findings": len(tally.findings),
        "tracebacks_in_the_log": traces,
        "slower_than_2_s": len(tally.slow),
        "rss_mb_first": round(memory[0][1] / 1e6) if memory else None,
        "rss_mb_last": round(memory[-1][1] / 1e6) if memory else None,
        "bytes_a_request_later": None if slope is None else round(slope),
        "minutes": round(seconds / 60, 1),
    }


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())
