"""The campaigns against the app, in short: whatever its page is given, it answers, and never with a 5xx.

`python -m tests.fuzz --only page` is the long run.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.fuzz.campaign import Tally
from tests.fuzz.page import Target, campaigns, described

NAMES = tuple(campaigns(Target.__new__(Target), lambda _: None))


@pytest.fixture(scope="module")
def target(app_url: str) -> Iterator[Target]:
    target = Target(app_url, Tally())
    with target.session:
        yield target


@pytest.mark.parametrize("name", NAMES)
def test_nothing_sent_gives_a_fault(target: Target, name: str) -> None:
    target.tally = Tally()
    with described(target.tally) as read:
        strategy, shoot = campaigns(target, read)[name]

        @settings(
            max_examples=25,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy)
        def shots(example: object) -> None:
            shoot(example)
            findings, target.tally.findings = target.tally.findings, []
            assert not findings

        shots()
    assert target.tally.requests >= 25
