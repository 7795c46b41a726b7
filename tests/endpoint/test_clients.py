"""Which requests count as one client's."""

from __future__ import annotations

import threading

import pytest
import requests

from backend.endpoint import Limits, Served, Service, build_app
from backend.endpoint.clients import counted_client
from backend.vae.whole import Whole
from tests.endpoint.test_app import BODY, SHAPE, Slow, wait_for
from tests.serving import serve


@pytest.mark.parametrize(
    ("host", "by_default", "if_asked_for"),
    [
        ("8.8.8.8", "8.8.8.8", "8.8.8.8"),
        ("::ffff:8.8.8.8", "8.8.8.8", "8.8.8.8"),
        ("127.0.0.1", None, "127.0.0.1"),
        ("10.3.2.1", None, "10.3.2.1"),
        ("172.17.0.1", None, "172.17.0.1"),
        ("::1", None, "0000:0000:0000:0000"),
        ("fe80::1%eth0", None, "fe80:0000:0000:0000"),
        ("2a00:1450:4001:81b::200e", "2a00:1450:4001:081b", "2a00:1450:4001:081b"),
        ("2a00:1450:4001:81b:ffff::1", "2a00:1450:4001:081b", "2a00:1450:4001:081b"),
        ("testclient", None, "testclient"),
        (None, None, None),
    ],
)
def test_who_counts_as_one(host: str | None, by_default: str | None, if_asked_for: str | None) -> None:
    assert counted_client(host, None) == by_default
    assert counted_client(host, 3) == if_asked_for
    assert counted_client(host, 0) is None


@pytest.mark.parametrize(("limits", "inside"), [(Limits(queue=4, per_client=2), 2), (Limits(queue=4), 4)])
def test_a_client_keeps_to_its_share(builtin: Whole, limits: Limits, inside: int) -> None:
    slow = Slow(builtin)
    service = Service([Served("only", builtin.spec, lambda: slow)], limits)
    queue = service.queue_of(service.find(None))
    with serve(build_app(service)) as url:

        def post() -> None:
            requests.post(f"{url}/?{SHAPE}", data=BODY, timeout=30)

        threads = [threading.Thread(target=post) for _ in range(inside)]
        for thread in threads:
            thread.start()
        wait_for(lambda: queue.in_flight == inside)
        refused = requests.post(f"{url}/?{SHAPE}", data=BODY, timeout=10)
        assert refused.status_code == 503 and refused.json()["code"] == "busy"
        slow.go.set()
        for thread in threads:
            thread.join()
        wait_for(lambda: queue.in_flight == 0)


def test_a_public_client_has_half_of_the_places() -> None:
    assert Limits().places_per_client == Limits().queue // 2
    assert Limits(queue=1).places_per_client == 1 and Limits(per_client=0).places_per_client == 0
