"""The HTTP edge: every bad request gets JSON with the right status, and the server lives on."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import MutableMapping
from urllib.parse import urlsplit

import pytest
import requests
import torch
from PIL import Image
from starlette.applications import Starlette

from backend import wire
from backend.endpoint import Limits, Served, Service, build_app, routes
from backend.endpoint.body import declared_size
from backend.endpoint.responses import LINGER_BYTES, LingeringResponse
from backend.errors import BusyError, OutOfMemoryError
from backend.models import BUILTIN
from backend.vae.whole import Whole
from backend.wire import pack_tensor, parse_timing
from tests.serving import serve
from tests.waiting import run_async

SHAPE = "shape=1&shape=4&shape=16&shape=16&dtype=float32"
BODY = bytes(4 * 16 * 16 * 4)


def png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/vae/builtin/decode", b"", 400, "bad_wire"),
        ("POST", "/vae/builtin/decode", png(64, 64), 415, "unsupported_type"),
        ("POST", f"/vae/builtin/decode?{SHAPE}", b"", 400, "bad_wire"),
        ("POST", f"/vae/builtin/decode?{SHAPE}", BODY[1:], 400, "bad_wire"),
        ("POST", f"/vae/builtin/decode?{SHAPE}&output_type=mp4", BODY, 400, "bad_wire"),
        (
            "POST",
            f"/vae/builtin/decode?{SHAPE.replace('shape=4', 'shape=5')}",
            bytes(5 * 16 * 16 * 4),
            400,
            "bad_request",
        ),
        (
            "POST",
            "/vae/builtin/decode?shape=1&shape=4&shape=128&shape=129&dtype=uint8",
            bytes(4 * 128 * 129),
            413,
            "too_large",
        ),
        (
            "POST",
            "/vae/builtin/decode?shape=5&shape=4&shape=1&shape=1&dtype=uint8",
            bytes(20),
            413,
            "too_large",
        ),
        (
            "POST",
            "/vae/builtin/decode?shape=1&shape=4&shape=9999&shape=9999&dtype=float32",
            b"",
            413,
            "too_large",
        ),
        ("POST", "/vae/builtin/encode", b"GIF89a", 415, "unsupported_type"),
        ("POST", "/vae/builtin/encode", b"", 400, "bad_wire"),
        ("POST", "/vae/builtin/encode", png(513, 512), 413, "too_large"),
        ("POST", "/vae/builtin/encode", png(64, 64)[:-40], 400, "bad_image"),
        ("POST", "/vae/builtin/encode", png(3, 3), 400, "bad_wire"),
        (
            "POST",
            "/vae/builtin/encode?shape=1&shape=3&shape=3&shape=3&dtype=uint8",
            bytes(27),
            400,
            "bad_request",
        ),
        ("POST", "/vae/nobody/decode", b"", 404, "unknown_vae"),
        ("POST", "/", b"", 404, "unknown_vae"),
        ("GET", "/vae/builtin/decode", b"", 405, "method_not_allowed"),
        ("DELETE", "/vae", b"", 405, "method_not_allowed"),
        ("GET", "/elsewhere", b"", 404, "not_found"),
    ],
)
def test_bad_requests(base: str, method: str, path: str, body: bytes, status: int, code: str) -> None:
    with requests.Session() as session:
        response = session.request(method, base + path, data=body, timeout=10)
        assert (response.status_code, response.json()["code"]) == (status, code), response.text
        assert response.json()["error"].endswith((".", "”"))
        assert set(response.json()) == {"error", "code", "hint", "request_id"}
        # The same connection, or a new one, still serves.
        assert session.get(f"{base}/health", timeout=10).json() == {"status": "alive"}


def test_many_errors_in_a_row(base: str) -> None:
    with requests.Session() as session:
        for _ in range(5):
            assert (
                session.post(f"{base}/vae/builtin/decode?{SHAPE}", data=BODY[1:], timeout=10).status_code
                == 400
            )
            assert session.post(f"{base}/vae/builtin/encode", data=b"hello", timeout=10).status_code == 415
            plain = session.get(f"{base}/vae/x", timeout=10)
            assert plain.status_code == 404 and plain.headers.get("connection") != "close"


def linger(*received: dict[str, object]) -> list[dict[str, object]]:
    """What a LingeringResponse sends while these messages come in; to wait for one more would fail."""
    coming, sent = iter(received), []

    async def receive() -> dict[str, object]:
        message = next(coming, None)
        assert message is not None, "it waits although the client has sent all"
        return message

    async def send(message: MutableMapping[str, object]) -> None:
        sent.append(dict(message))

    run_async(LingeringResponse({"error": "no"}, status_code=400)({"type": "http"}, receive, send))
    assert next(coming, None) is None, "it did not read on"
    return sent


def test_an_early_answer_comes_first_and_lingers_no_longer_than_the_client_sends() -> None:
    """An answer before the body's end lingers for clients that still send; others must not wait for that."""
    chunk = {"type": "http.request", "body": bytes(8), "more_body": True}
    for received in (
        [{**chunk, "more_body": False}],
        [chunk, chunk, {**chunk, "more_body": False}],
        [chunk, {"type": "http.disconnect"}],
        [{**chunk, "body": bytes(LINGER_BYTES)}, chunk],  # enough is enough
    ):
        start, answer, end = linger(*received)
        assert start["status"] == 400 and json.loads(bytes(answer["body"])) == {"error": "no"}  # type: ignore[call-overload]
        assert answer["more_body"] and end == {"type": "http.response.body", "body": b"", "more_body": False}


def test_a_body_too_large_is_refused_unread(base: str) -> None:
    parts = urlsplit(base)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
    connection.putrequest("POST", "/vae/builtin/encode")
    connection.putheader("Content-Length", str(10**10))
    connection.endheaders()
    # Not one byte of the body is sent, and the answer is there.
    response = connection.getresponse()
    assert response.status == 413 and json.loads(response.read())["code"] == "too_large"
    connection.close()


def test_a_client_that_sends_on_gets_the_answer_not_a_reset(base: str) -> None:
    response = requests.post(f"{base}/vae/builtin/encode", data=bytes(32 * 2**20), timeout=20)
    assert response.status_code == 413


def test_a_chunked_body_is_cut_off_at_the_limit(base: str) -> None:
    sent = 0

    def chunks() -> object:
        nonlocal sent
        for _ in range(1000):
            sent += 2**20
            yield bytes(2**20)

    try:
        status = requests.post(f"{base}/vae/builtin/encode", data=chunks(), timeout=20).status_code  # type: ignore[arg-type]
    except requests.ConnectionError:
        status = 413  # hung up on while sending, which is as it should be
    assert status == 413 and sent < 1000 * 2**20


def test_a_chunked_body_counts_as_the_largest_until_it_is_there(builtin: Whole) -> None:
    slow = Slow(builtin)
    limits = Limits(max_body_bytes=2 * len(BODY), queue_bytes=2 * len(BODY) + 100)
    service = Service([Served("only", builtin.spec, lambda: slow)], limits)
    queue = service.queue_of(service.find(None))
    answers: list[requests.Response] = []
    with serve(build_app(service)) as url:
        parts = urlsplit(url)
        chunked = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
        chunked.putrequest("POST", f"/?{SHAPE}")
        chunked.putheader("Transfer-Encoding", "chunked")
        chunked.endheaders()
        wait_for(lambda: queue.in_flight == 1)
        refused = requests.post(f"{url}/?{SHAPE}", data=BODY, timeout=10)
        assert refused.status_code == 503 and refused.json()["code"] == "busy"
        chunked.send(b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY))
        assert slow.started.wait(10)
        other = threading.Thread(
            target=lambda: answers.append(requests.post(f"{url}/?{SHAPE}", data=BODY, timeout=30))
        )
        other.start()
        wait_for(lambda: queue.in_flight == 2)  # the first one counts as what it is now
        slow.go.set()
        assert chunked.getresponse().status == 200
        other.join()
        chunked.close()
        assert [answer.status_code for answer in answers] == [200]
        wait_for(lambda: queue.in_flight == 0)
    queue.acquire(limits.queue_bytes)  # every byte was given back
    with pytest.raises(BusyError):
        queue.acquire(1)


@pytest.mark.parametrize("pause", [1.5, 0.1], ids=["nothing comes", "a byte now and then"])
def test_a_body_that_stalls_gives_its_place_back(builtin: Whole, pause: float) -> None:
    service = Service([Served("only", builtin.spec, lambda: builtin)], Limits(queue=2, stall=1.0))
    queue = service.queue_of(service.find(None))
    with serve(build_app(service)) as url:
        parts = urlsplit(url)
        stalled = [http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20) for _ in range(2)]
        for connection in stalled:
            connection.putrequest("POST", f"/?{SHAPE}")
            connection.putheader("Content-Length", str(len(BODY)))
            connection.endheaders()
        wait_for(lambda: queue.in_flight == 2)
        for _ in range(int(1.5 / pause)):
            time.sleep(pause)
            for connection in stalled:
                with contextlib.suppress(OSError):
                    connection.send(b"x")
        wait_for(lambda: queue.in_flight == 0)
        for connection in stalled:
            answer = connection.getresponse()
            assert answer.status == 503 and json.loads(answer.read())["code"] == "deadline"
            connection.close()
        assert requests.post(f"{url}/?{SHAPE}", data=BODY, timeout=10).status_code == 200


@pytest.mark.parametrize("length", ["0", "5"])
def test_chunks_count_although_a_length_is_announced_too(length: str) -> None:
    """HTTP goes by the chunks then, so a small announcement must not book a small place."""
    assert declared_size({"transfer-encoding": "chunked", "content-length": length}, 10) is None
    assert declared_size({"content-length": length}, 10) == int(length)
    assert declared_size({}, 10) == 0


def test_the_direction_is_found_out_away_from_the_event_loop(
    builtin: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may take the parsing of a large JSON body, and the loop also answers for the page."""
    threads: list[str] = []
    guess = wire.guess_direction

    def watched(*arguments: object) -> object:
        threads.append(threading.current_thread().name)
        return guess(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(wire, "guess_direction", watched)
    with serve(build_app(Service([Served("only", builtin.spec, lambda: builtin)]))) as url:
        assert requests.post(f"{url}/?{SHAPE}", data=BODY, timeout=10).status_code == 200
        assert requests.post(f"{url}/", data=b"no picture", timeout=10).json()["code"] == "bad_wire"
    assert len(threads) == 2 and all(name.startswith("vae-wire") for name in threads)


def test_the_list_has_what_a_client_must_know(base: str) -> None:
    vaes = {vae["name"]: vae for vae in requests.get(f"{base}/vae", timeout=10).json()["vaes"]}
    assert set(vaes) == {"builtin", "flux"}
    assert vaes["flux"]["channels"] == 16 and vaes["flux"]["shift_factor"] == 0.1159
    assert vaes["builtin"]["scaling_factor"] == BUILTIN.latents.scaling_factor
    assert vaes["builtin"]["downscale"] == 4 and vaes["builtin"]["limits"]["max_pixels"] == 512 * 512
    assert requests.get(f"{base}/vae/flux", timeout=10).json() == vaes["flux"]


def test_server_timing_names_the_stages(base: str) -> None:
    response = requests.post(f"{base}/vae/builtin/decode?{SHAPE}", data=BODY, timeout=10)
    timing = parse_timing(response.headers["server-timing"])
    assert set(timing) == {"parse", "queue", "compute", "encode"} and timing["compute"] > 0


def test_the_bare_address_serves_an_only_vae_both_ways(builtin: Whole) -> None:
    with serve(build_app(Service([Served("only", builtin.spec, lambda: builtin)]))) as url:
        latents = requests.post(url, data=png(64, 64), timeout=10)
        assert json.loads(latents.headers["shape"]) == [1, 4, 16, 16]
        picture = requests.post(f"{url}/?{SHAPE}", data=latents.content, timeout=10)
        assert picture.headers["content-type"] == "image/jpeg"
        assert requests.get(url, timeout=10).json()["vaes"][0]["name"] == "only"


def test_a_token_is_wanted(builtin: Whole) -> None:
    service = Service([Served("only", builtin.spec, lambda: builtin)], token="s3cret")
    with serve(build_app(service)) as url:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic s3cret"}):
            response = requests.post(f"{url}/?{SHAPE}", data=BODY, headers=headers, timeout=10)
            assert response.status_code == 401 and response.json()["code"] == "unauthorized"
            assert response.headers["www-authenticate"] == "Bearer" and "s3cret" not in response.text
        assert requests.get(f"{url}/vae", timeout=10).status_code == 401
        assert requests.get(f"{url}/health", timeout=10).status_code == 200
        headers = {"Authorization": "Bearer s3cret"}
        assert requests.post(f"{url}/?{SHAPE}", data=BODY, headers=headers, timeout=10).status_code == 200


class Failing(Whole):
    def __init__(self, module: object, spec: object, error: Exception) -> None:
        super().__init__(module, spec)  # type: ignore[arg-type]
        self.error = error

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        raise self.error


def test_out_of_memory_gets_one_try_in_a_mode_that_needs_less(builtin: Whole) -> None:
    failing = Failing(
        builtin.module, builtin.spec, OutOfMemoryError("It did not fit.", "Choose a smaller size.")
    )
    served = [
        Served("saved", builtin.spec, lambda: failing, load_low_memory=lambda: builtin),
        Served("lost", builtin.spec, lambda: failing, load_low_memory=lambda: failing),
        Served("alone", builtin.spec, lambda: failing),
    ]
    with serve(build_app(Service(served))) as url:
        assert requests.post(f"{url}/vae/saved/decode?{SHAPE}", data=BODY, timeout=10).status_code == 200
        for name in ("lost", "alone"):
            response = requests.post(f"{url}/vae/{name}/decode?{SHAPE}", data=BODY, timeout=10)
            assert response.status_code == 507
            assert response.json() == {
                "error": "It did not fit.",
                "code": "out_of_memory",
                "hint": "Choose a smaller size.",
                "request_id": response.headers["x-request-id"],
            }


def test_a_fault_of_ours_is_logged_and_answered_without_its_inner_parts(
    builtin: Whole, caplog: pytest.LogCaptureFixture
) -> None:
    failing = Failing(builtin.module, builtin.spec, KeyError("inner"))
    with serve(build_app(Service([Served("only", builtin.spec, lambda: failing)]))) as url:
        response = requests.post(f"{url}/?{SHAPE}", data=BODY, timeout=10)
        assert response.status_code == 500 and response.json()["code"] == "internal"
        assert "inner" not in response.text and "inner" in caplog.text
        assert requests.get(f"{url}/health", timeout=10).status_code == 200


class Slow(Whole):
    """Waits for `go` before it decodes, and counts."""

    def __init__(self, vae: Whole) -> None:
        super().__init__(vae.module, vae.spec)
        self.go = threading.Event()
        self.started = threading.Event()
        self.calls = 0

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.started.set()
        assert self.go.wait(20)
        return super().decode(latents)


def test_a_full_queue_answers_503_with_retry_after(builtin: Whole) -> None:
    slow = Slow(builtin)
    service = Service([Served("only", builtin.spec, lambda: slow)], Limits(queue=3))
    answers: list[requests.Response] = []
    with serve(build_app(service)) as url:

        def post() -> None:
            answers.append(requests.post(f"{url}/?{SHAPE}", data=BODY, timeout=30))

        threads = [threading.Thread(target=post) for _ in range(3)]
        for thread in threads:
            thread.start()
        wait_for(lambda: service.queue_of(service.find(None)).in_flight == 3)
        refused = requests.post(f"{url}/?{SHAPE}", data=BODY, timeout=10)
        assert refused.status_code == 503 and refused.json()["code"] == "busy"
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        slow.go.set()
        for thread in threads:
            thread.join()
        assert [answer.status_code for answer in answers] == [200, 200, 200]
        wait_for(lambda: service.queue_of(service.find(None)).in_flight == 0)


def test_a_client_that_went_away_is_not_computed_for(builtin: Whole) -> None:
    slow = Slow(builtin)
    service = Service([Served("only", builtin.spec, lambda: slow)])
    queue = service.queue_of(service.find(None))
    with serve(build_app(service)) as url:
        first = threading.Thread(target=lambda: requests.post(f"{url}/?{SHAPE}", data=BODY, timeout=30))
        first.start()
        assert slow.started.wait(10)
        parts = urlsplit(url)
        leaver = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
        leaver.request("POST", f"/?{SHAPE}", body=BODY)
        wait_for(lambda: queue.waiting == 1)
        leaver.close()
        wait_for(lambda: queue.in_flight == 1)
        slow.go.set()
        first.join()
        assert requests.post(f"{url}/?{SHAPE}", data=BODY, timeout=30).status_code == 200
    assert slow.calls == 2


def test_a_deadline_ends_the_wait(builtin: Whole) -> None:
    slow = Slow(builtin)
    service = Service([Served("only", builtin.spec, lambda: slow)], Limits(deadline=0.3))
    with serve(build_app(service)) as url:
        response = requests.post(f"{url}/?{SHAPE}", data=BODY, timeout=10)
        assert response.status_code == 503 and response.json()["code"] == "deadline"
        slow.go.set()


def test_routes_next_to_another_app(service: Service) -> None:
    with serve(Starlette(routes=[*routes(service)])) as url:
        for prefix in ("", "/gradio_api"):
            response = requests.post(f"{url}{prefix}/vae/builtin/decode?{SHAPE}", data=BODY, timeout=10)
            assert response.status_code == 200 and response.headers["content-type"] == "image/jpeg"


def test_routes_exist_before_torch() -> None:
    code = (
        "import sys; from backend.endpoint import Service, routes; routes(Service([])); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_a_float_body_is_what_it_was(base: str, builtin: Whole) -> None:
    latents = torch.randn(1, 4, 16, 16)
    response = requests.post(
        f"{base}/vae/builtin/decode?{SHAPE}&do_scaling=true&output_type=pt",
        data=pack_tensor(latents),
        timeout=10,
    )
    assert response.content == pack_tensor(builtin.decode(latents))


def wait_for(condition: object, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)
