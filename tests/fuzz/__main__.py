"""`python -m tests.fuzz`: campaigns against an endpoint and the app, each in a process of its own and watched.

    python -m tests.fuzz --requests 50000 --minutes 60 [--only page]

Meanwhile another visitor asks both for what costs nothing, again and again. Prints JSON last; exits with 1 if anything
was found.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import requests
from hypothesis import HealthCheck, Phase, given, settings

from benchmarks.load import Server
from benchmarks.watch import observe
from tests.fuzz.attacks import Attack, attacks, valid
from tests.fuzz.campaign import PATIENCE, Tally, attack, exchange
from tests.fuzz.described import cases, try_case
from tests.fuzz.page import Target, campaigns, described

DESCRIBED_SHARE = 0.25
ROUND = 500
"""Examples between two looks at the memory."""
LIMITS = ("--max-pixels", "65536", "--max-body", "4", "--max-batch", "4", "--device", "cpu")


def servers(folder: Path) -> dict[str, Server]:
    """The served built-in VAE and the app, not started."""
    environment = {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder / "cache")}
    endpoint = ["-m", "backend.endpoint", *LIMITS]
    app = [
        "app.py",
        "--device",
        "cpu",
        "--model",
        "builtin",
        "--folder",
        str(folder / "runs"),
        "--keep-gb",
        "0.2",
    ]
    return {
        "endpoint": Server(endpoint, "/ready", folder / "endpoint.log", environment),
        "page": Server(app, "/vae", folder / "page.log", environment),
    }


class Other:
    """A visitor who asks again and again for what costs nothing, while the block lasts."""

    def __init__(self, address: str) -> None:
        self.waits: list[float] = []
        self.failures: list[str] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask, args=(address,), daemon=True)

    def _ask(self, address: str) -> None:
        while not self._over.wait(0.2):
            started = time.monotonic()
            try:
                status = requests.get(address, timeout=PATIENCE).status_code
                if status != 200:
                    self.failures.append(f"another visitor got {status}")
            except requests.RequestException as error:
                self.failures.append(f"another visitor got {type(error).__name__}")
            self.waits.append(time.monotonic() - started)

    def __enter__(self) -> Other:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(60)


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


Round = Callable[[], None]
"""Sends some hundred requests."""


def endpoint_rounds(url: str, tally: Tally, session: requests.Session) -> dict[str, Round]:
    described = cases(url)
    return {
        "mutated requests": lambda: fire(
            attacks(), lambda one: attack(url, one, tally), int(ROUND * (1 - DESCRIBED_SHARE))
        ),
        "described requests": lambda: fire(
            described, lambda case: try_case(url, case, session, tally), int(ROUND * DESCRIBED_SHARE)
        ),
    }


def page_rounds(url: str, tally: Tally, read: Callable[[Any], None]) -> dict[str, Round]:
    found = campaigns(Target(url, tally), read)
    return {
        name: partial(fire, strategy, shoot, ROUND // len(found)) for name, (strategy, shoot) in found.items()
    }


def campaign(
    server: Server, rounds: dict[str, Round], tally: Tally, options: argparse.Namespace
) -> dict[str, Any]:
    """Rounds until there were requests enough or the time is over; the figures, JSON-ready."""
    started, memory, pause = time.monotonic(), [], 0.0
    counts = dict.fromkeys(rounds, 0)
    with Other(server.url + server.ready) as other:
        while tally.requests < options.requests and time.monotonic() - started < options.minutes * 60:
            for name, shoot in rounds.items():
                before = tally.requests
                shoot()
                counts[name] += tally.requests - before
                assert tally.requests > before
            if (rss := server.rss()) is None:
                tally.findings.append("the server is dead")
                break
            seen = observe(server.watch)
            pause = max(pause, seen.busy_pause)
            memory.append((tally.requests, rss))
            print(
                f"{tally.requests} requests, {time.monotonic() - started:.0f} s, {rss / 1e6:.0f} MB, "
                f"{len(tally.findings)} findings, pause {seen.pause:.2f} ({seen.busy_pause:.2f} of its own), "
                f"{dict(sorted(tally.statuses.items()))}",
                flush=True,
            )
    tally.findings += other.failures
    return summary(tally, memory, time.monotonic() - started) | {
        "by_campaign": counts,
        "longest_pause_of_its_own_seconds": round(pause, 2),
        "others_asked": len(other.waits),
        "others_waited_at_most_seconds": round(max(other.waits, default=0.0), 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--requests", type=int, default=5000, help="How many to send to each. (%(default)s)")
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="The longest time for each. (%(default)g)"
    )
    parser.add_argument("--only", choices=("endpoint", "page"), help="One of the two.")
    options = parser.parse_args()
    figures, wrong = {}, 0
    with tempfile.TemporaryDirectory() as folder:
        for name, server in servers(Path(folder)).items():
            if options.only in (None, name):
                figures[name], found = run(name, server, options)
                wrong += found
    print(json.dumps(figures))
    return 1 if wrong else 0


def run(name: str, server: Server, options: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """(figures, number of findings and tracebacks) of one server's campaigns; prints what was found."""
    tally = Tally()
    server.start()
    try:
        with requests.Session() as session, described(tally) as read:
            if name == "endpoint":
                expected = exchange(server.url, _probe()).body
                figures = campaign(server, endpoint_rounds(server.url, tally, session), tally, options)
                if (wrong := still_sound(server.url, expected)) is not None:
                    tally.findings.append(wrong)
            else:
                figures = campaign(server, page_rounds(server.url, tally, read), tally, options)
    finally:
        server.stop()
    traces = tracebacks(server.log.read_text())
    for finding in dict.fromkeys(tally.findings):
        print("FOUND", finding)
    for error, found in traces.items():
        print(f"TRACEBACK {len(found)} times {error}\n{found[0]}")
    for seconds, what in sorted(tally.slow, reverse=True)[:5]:
        print(f"SLOW {seconds:.1f} s {what}")
    count = sum(map(len, traces.values()))
    figures |= {"findings": len(tally.findings), "tracebacks_in_the_log": count}
    return figures, len(tally.findings) + count


def tracebacks(log: str) -> dict[str, list[str]]:
    """The tracebacks of a log by the error that ends them, in which ids count as one."""
    found: dict[str, list[str]] = {}
    for rest in log.split("Traceback (most recent call last):\n")[1:]:
        lines = rest.splitlines()
        end = next((place for place, line in enumerate(lines) if line[:1].strip()), len(lines) - 1)
        error = re.sub(r"[0-9a-f]{8,}", "…", lines[end])[:200]
        found.setdefault(error, []).append("\n".join(lines[: end + 1]))
    return found


def summary(tally: Tally, memory: list[tuple[int, int]], seconds: float) -> dict[str, Any]:
    """The figures; the slope is over the second half, when caches and pools have filled."""
    later = memory[len(memory) // 2 :]
    slope = float(np.polyfit(*zip(*later, strict=True), 1)[0]) if len(later) > 2 else None
    return {
        "requests": tally.requests,
        "by_status": dict(sorted(tally.statuses.items())),
        "slower_than_2_s": len(tally.slow),
        "rss_mb_first": round(memory[0][1] / 1e6) if memory else None,
        "rss_mb_last": round(memory[-1][1] / 1e6) if memory else None,
        "bytes_a_request_later": None if slope is None else round(slope),
        "minutes": round(seconds / 60, 1),
    }


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())
