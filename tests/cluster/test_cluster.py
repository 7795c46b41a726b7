"""The endpoint on a local Ray with two workers: the same protocol, and no request lost when one is killed.

Needs requirements-cluster.txt; `make cluster-test` runs it.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from backend.conformance.check import Check
from backend.conformance.checks import CHECKS
from backend.conformance.target import Target
from backend.endpoint import Limits
from backend.endpoint.cluster import NAME, ClusterConfig, run
from backend.models import BUILTIN
from backend.wire import parse_timing
from tests.waiting import wait_until

ray = pytest.importorskip("ray", reason="needs requirements-cluster.txt")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
]  # Ray's own warnings are not ours to fix

SHAPE = (
    "shape=1&shape=4&shape=8&shape=8&dtype=float32&scaling_factor=1&output_type=pt&partial_postprocess=true"
)
BODY = bytes(4 * 8 * 8 * 4)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    from ray import serve

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    ray.init(num_cpus=4, include_dashboard=False, configure_logging=False, log_to_driver=False)
    config = ClusterConfig(
        (("builtin", BUILTIN.repository),), device="cpu", replicas=2, limits=Limits(max_pixels=512 * 512)
    )
    run(config, "127.0.0.1", port)
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()
    ray.shutdown()


@pytest.fixture(scope="module")
def target(url: str) -> Target:
    return Target(f"{url}/vae/builtin/encode", f"{url}/vae/builtin/decode", BUILTIN.latents)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: f"{check.direction}: {check.name}")
def test_conformance(target: Target, check: Check) -> None:
    check.run(target)


def test_the_rest_of_the_service(url: str) -> None:
    assert requests.get(f"{url}/health", timeout=10).json() == {"status": "alive"}
    assert requests.get(f"{url}/vae", timeout=10).json()["vaes"][0]["name"] == "builtin"
    assert b"latent_relay_requests" in requests.get(f"{url}/metrics", timeout=10).content
    reply = requests.post(f"{url}/?{SHAPE}", data=BODY, timeout=60)
    assert reply.status_code == 200 and set(parse_timing(reply.headers["server-timing"])) >= {
        "queue",
        "compute",
    }
    assert requests.post(f"{url}/vae/nobody/decode", timeout=10).json()["code"] == "unknown_vae"


def wait_while_moving(value: Callable[[], int], goal: int, patience: float = 120.0) -> None:
    """Until `value()` reaches `goal`; a busy machine may take its time, standing still for `patience` seconds not."""
    last, since = value(), time.monotonic()
    while last < goal:
        time.sleep(0.1)
        now = value()
        if now != last:
            last, since = now, time.monotonic()
        assert time.monotonic() - since < patience, f"stands still at {last} of {goal}"


def workers() -> list[str]:
    found = ray.util.list_named_actors(all_namespaces=True)
    return [actor["name"] for actor in found if f"{NAME}#Worker#" in actor["name"]]


def test_a_killed_worker_loses_no_request(url: str) -> None:
    wait_until(lambda: len(workers()) == 2, 150.0)
    statuses: Counter[Any] = Counter()
    guard, stop = threading.Lock(), threading.Event()

    def post() -> None:
        with requests.Session() as session:
            while not stop.is_set():
                try:
                    status: Any = session.post(f"{url}/?{SHAPE}", data=BODY, timeout=300).status_code
                except requests.RequestException as error:
                    status = type(error).__name__
                with guard:
                    statuses[status] += 1

    threads = [threading.Thread(target=post) for _ in range(6)]
    for thread in threads:
        thread.start()
    wait_while_moving(lambda: sum(statuses.values()), 12)
    before, killed = statuses[200], workers()[0]
    ray.kill(ray.get_actor(killed, namespace="serve"))
    wait_while_moving(lambda: sum(statuses.values()), before + 40)
    wait_until(lambda: killed not in workers() and len(workers()) == 2, 300.0)  # another has taken its place
    stop.set()
    for thread in threads:
        thread.join(300)
    print(f"answers: {dict(statuses)}, {before} of them before a worker was killed")  # noqa: T201 - shown by make
    assert before > 0 and statuses[200] > before
    assert set(statuses) == {200}, statuses
