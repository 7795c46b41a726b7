"""A small crowd on the real app and the real endpoint, killed on the way: `python -m benchmarks.load` in short."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks import load


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    plan = load.LoadPlan(seconds=12, sessions=4, clients=4, kill=True, queue_share=0.5)
    return load.run(plan, tmp_path_factory.mktemp("load"))


@pytest.mark.slow
@pytest.mark.serial
def test_nobody_gets_anothers_picture_or_none(result: dict[str, Any]) -> None:
    for crowd in ("app", "endpoint"):
        outcomes = {name: result[crowd][name] for name in load.OUTCOMES}
        assert outcomes["swapped"] == outcomes["lost"] == outcomes["failed"] == 0, (
            outcomes,
            result[crowd]["messages"],
        )
        assert outcomes["ok"] > 0 and result[crowd]["rss_mb"]["most"] > 100
    assert result["tracebacks"] == []


@pytest.mark.slow
@pytest.mark.serial
def test_past_the_bound_they_are_told_that_it_is_busy(result: dict[str, Any]) -> None:
    for crowd in ("app", "endpoint"):
        assert result[crowd]["busy"] > 0
        messages = result[crowd]["messages"]
        assert all("busy" in message for message in messages), messages


@pytest.mark.slow
@pytest.mark.serial
def test_what_was_finished_before_the_kill_is_there_after_it(result: dict[str, Any]) -> None:
    kept = result["kept"]
    assert kept["reported_finished"] == kept["on_disk"] == kept["downloadable"] > 0


def test_a_verdict_can_be_a_bad_one() -> None:
    """The checks find what they are for."""
    tallies = [load.Tally("a"), load.Tally("b")]
    tallies[0].outcomes = Counter(ok=3, busy=1)
    tallies[1].outcomes = Counter(ok=1)
    tallies[0].waits, tallies[1].waits = [1.0, 2.0, 3.0], [9.0]
    crowd = load.figures(tallies, 10)
    assert (crowd["ok"], crowd["busy"], crowd["served_least"], crowd["served_most"]) == (4, 1, 1, 3)
    assert crowd["wait_seconds"] == {"p50": 3.0, "p90": 9.0, "p99": 9.0, "p100": 9.0}
    good = {
        "app": crowd,
        "endpoint": crowd,
        "kept": {"reported_finished": 4, "on_disk": 4, "downloadable": 4},
        "ended_by_themselves": {},
        "leavers": {"outcomes": {"restore": {"ok": 3, "busy": 1}}},
    }
    assert load.sound(good)
    assert not load.sound(good | {"leavers": {"outcomes": {"restore": {"ok": 3, "swapped": 1}}}})
    for wrong in ({"swapped": 1}, {"lost": 1}, {"failed": 1}, {"served_least": 0}):
        assert not load.sound(good | {"app": crowd | wrong})
    assert not load.sound(good | {"ended_by_themselves": {"app": -11}})
    assert not load.sound(good | {"kept": {"reported_finished": 4, "on_disk": 4, "downloadable": 3}})


def test_a_slope_is_that_of_the_settled_part_of_the_last_life() -> None:
    samples = [
        (float(second), 500_000_000 if second < 30 else 100_000_000 + second * 100_000)
        for second in range(90)
    ]
    figures = load.memory_figures(samples, killed=[30.0], begin=0.0)
    assert figures["slope_mb_per_minute"] == pytest.approx(6.0)
    assert load.memory_figures(samples[:5], [], 0.0)["slope_mb_per_minute"] is None


def test_nothing_but_the_servers_death_excuses_a_broken_answer(tmp_path: Path) -> None:
    server = load.Server(["-c", "pass"], "/", tmp_path / "log", {})
    server.up.set()
    assert load.outcome_of(TimeoutError(), server, begin=10.0) == "lost"
    assert load.outcome_of(ValueError("It is busy: 4 others"), server, begin=10.0) == "busy"
    assert load.outcome_of(ConnectionError("reset"), server, begin=10.0) == "failed"
    server.killed_at.append(11.0)
    assert load.outcome_of(ConnectionError("reset"), server, begin=10.0) == "interrupted"
    assert load.outcome_of(ConnectionError("reset"), server, begin=12.0) == "failed"


def test_tracebacks_are_kept_with_their_error() -> None:
    log = 'INFO one\nTraceback (most recent call last):\n  File "a.py", line 3, in f\n    g()\nValueError: no\nINFO z\n'
    assert load.tracebacks(log) == [log[9:-8]]
    assert load.tracebacks("INFO one\n") == []
