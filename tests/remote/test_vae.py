"""The remote client: agrees with a local VAE through a real port, and says what went wrong in a sentence."""

from __future__ import annotations

import http.server
import socket
import threading
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image

from backend.errors import (
    Cancelled,
    RemoteError,
    RemoteRefusedError,
    RemoteReplyError,
    RemoteTimeoutError,
    RemoteUnreachableError,
    UserError,
)
from backend.images import to_tensor
from backend.job import LOSSLESS, TRANSFERS, Transfer
from backend.message import Message
from backend.models import BUILTIN
from backend.remote.net import new_session
from backend.remote.vae import RemoteVae
from backend.vae.whole import Whole
from backend.wire import pack_decode_reply, pack_tensor_reply, pixels_to_image
from tests.serving import scripted
from tests.waiting import CountedWaits

SPEC = BUILTIN.latents
LATENTS = torch.randn(1, 4, 16, 24, generator=torch.Generator().manual_seed(1))
IMAGE = pixels_to_image(torch.full((1, 64, 96, 3), 77, dtype=torch.uint8))


def good() -> tuple[int, dict[str, str], bytes]:
    headers, body = pack_decode_reply(IMAGE, "uint8")
    return 200, headers, body


def remote(url: str | None, **options: Any) -> RemoteVae:
    return RemoteVae(SPEC, url, url, **{"timeout": 10.0, "session": new_session(), **options})


@pytest.mark.parametrize("transfer", TRANSFERS)
def test_decode_agrees_with_local(base: str, builtin: Whole, transfer: Transfer) -> None:
    vae = remote(f"{base}/vae/builtin/decode", transfer=transfer)
    image, expected = vae.decode(LATENTS), builtin.decode(LATENTS)
    assert image.dtype == torch.float32 and image.shape == expected.shape
    tolerance = {"float32": 0.0, "float16": 0.02, "uint8": 1 / 255 + 1e-6, "png": 1 / 255 + 1e-6, "jpg": 0.5}
    torch.testing.assert_close(image, expected, rtol=0, atol=tolerance[transfer])
    assert vae.traffic is not None and vae.traffic.bytes_sent == 4 * 16 * 24 * (
        2 if transfer == "float16" else 4
    )
    assert vae.traffic.server_seconds is not None and vae.traffic.server_seconds > 0
    if transfer == "uint8":
        assert vae.traffic.bytes_received == 96 * 64 * 3


@pytest.mark.parametrize("transfer", TRANSFERS)
def test_encode_agrees_with_local(
    base: str, builtin: Whole, picture: Image.Image, transfer: Transfer
) -> None:
    vae = remote(f"{base}/vae/builtin/encode", transfer=transfer)
    image = to_tensor(picture)
    latents, expected = vae.encode(image), builtin.encode(image)
    if LOSSLESS[transfer]:
        assert torch.equal(latents, expected)
    else:
        torch.testing.assert_close(latents, expected, rtol=0, atol=1.0)


def test_batches_both_ways(base: str, builtin: Whole, picture: Image.Image) -> None:
    images = to_tensor(picture).repeat(3, 1, 1, 1)
    latents = remote(f"{base}/vae/builtin/encode").encode(images)
    assert torch.equal(latents, builtin.encode(images))
    for transfer in TRANSFERS:
        assert remote(f"{base}/vae/builtin/decode", transfer=transfer).decode(latents).shape == images.shape


def test_shift_and_sixteen_channels(base: str, flux_like: Whole) -> None:
    latents = torch.randn(1, 16, 4, 4)
    vae = RemoteVae(flux_like.spec, None, f"{base}/vae/flux/decode", transfer="float32")
    assert torch.equal(vae.decode(latents), flux_like.decode(latents))


def test_it_always_says_what_it_means() -> None:
    with scripted(good()) as (script, url):
        remote(url).decode(LATENTS)
    path = script.requests[0][0]
    assert f"scaling_factor={SPEC.scaling_factor!r}" in path and "partial_postprocess=True" in path


def test_connections_are_kept() -> None:
    with scripted(good()) as (script, url):
        session = new_session()
        for _ in range(3):
            remote(url, session=session).decode(LATENTS)
        assert len(script.requests) == 3 and len(script.connections) == 1


def test_the_token_goes_along_and_is_never_shown() -> None:
    with scripted((401, {"content-type": "application/json"}, b'{"error": "no"}')) as (script, url):
        vae = remote(url, token="s3cret")
        with pytest.raises(RemoteRefusedError, match="token") as caught:
            vae.decode(LATENTS)
    assert script.requests[0][1]["authorization"] == "Bearer s3cret"
    assert "s3cret" not in caught.value.sentence + repr(vae) + repr(vae.client) + caught.value.url
    assert caught.value.status == 401 and len(script.requests) == 1


def test_a_redirect_is_not_followed() -> None:
    with (
        scripted(good()) as (target, there),
        scripted((307, {"location": f"{there}/vae?x=1"}, b"")) as (_, url),
        pytest.raises(RemoteRefusedError, match="has moved to") as caught,
    ):
        remote(url, token="s3cret").decode(LATENTS)
    assert not target.requests and caught.value.status == 307


HTML = {"content-type": "text/html"}
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            (400, JSON, b'{"error": "The shape is odd.", "code": "bad_wire", "hint": "x"}'),
            "error 400. It says: The shape is odd.",
        ),
        ((400, JSON, b"[1]"), "error 400"),
        ((403, HTML, b"<html>no</html>"), "does not let us in"),
        ((404, HTML, b"<html>no</html>"), "There is no VAE"),
        ((413, JSON, b'{"error": "Too big."}'), "too large for the endpoint"),
        ((422, JSON, b'{"detail": ["a", "b"]}'), "It says: a; b"),
        ((500, HTML, b"<html>"), "error 500"),
        ((507, JSON, b"{}"), "ran out of memory"),
    ],
)
def test_a_refusal_is_a_sentence_and_is_not_tried_again(answer: Any, message: str) -> None:
    with scripted(answer) as (script, url), pytest.raises(RemoteRefusedError, match=message) as caught:
        remote(url).decode(LATENTS)
    assert len(script.requests) == 1 and caught.value.hint and caught.value.status == answer[0]


def tensor(image: torch.Tensor) -> tuple[int, dict[str, str], bytes]:
    return (200, *pack_tensor_reply(image))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((200, HTML, b"<html>Login</html>"), "a web page"),
        ((200, {}, b""), "empty"),
        ((200, JSON, b"{}"), "no “inputs”"),
        (tensor(torch.zeros(1, 64, 96, 3)), "not the picture asked for"),
        (tensor(torch.zeros(1, 32, 96, 3, dtype=torch.uint8)), "96 × 32 pixels"),
        (tensor(torch.zeros(2, 32, 96, 3, dtype=torch.uint8)), "96 × 32 pixels"),
        ((200, {"shape": "[1, 64, 96, 3]", "dtype": "uint8"}, bytes(100)), "18432 bytes, but 100 came"),
        ((200, {"shape": "[1, 64, 96, 3]", "dtype": "uint8"}, bytes(10**6)), "sent more than"),
        (
            (
                200,
                {
                    "content-length": "18432",
                    "shape": "[1, 64, 96, 3]",
                    "dtype": "uint8",
                    "connection": "close",
                },
                bytes(99),
            ),
            "cut off",
        ),
    ],
)
def test_a_useless_reply_is_explained(answer: Any, message: str) -> None:
    def send_and_hang_up(handler: http.server.BaseHTTPRequestHandler) -> None:
        status, headers, body = answer
        handler.send_response(status)
        for key, value in {"content-length": str(len(body)), **headers}.items():
            handler.send_header(key, value)
        handler.end_headers()
        handler.wfile.write(body)
        handler.close_connection = True

    with scripted(send_and_hang_up) as (_, url), pytest.raises(RemoteReplyError, match=message) as caught:
        remote(url, timeout=5.0).decode(LATENTS)
    assert caught.value.hint


def test_values_that_are_not_finite_are_refused() -> None:
    image = torch.zeros(1, 3, 64, 96)
    image[0, 0, 5, 5] = torch.nan
    with scripted(tensor(image)) as (_, url), pytest.raises(RemoteReplyError, match="NaN"):
        remote(url, transfer="float32").decode(LATENTS)


def test_another_models_endpoint_is_recognised() -> None:
    with (
        scripted(tensor(torch.zeros(1, 16, 8, 12))) as (_, url),
        pytest.raises(RemoteReplyError, match="latents of shape"),
    ):
        remote(url).encode(torch.zeros(1, 3, 64, 96))


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_nobody_there_is_tried_a_few_times() -> None:
    notices: list[Message] = []
    stop = CountedWaits()
    with pytest.raises(RemoteUnreachableError, match="Nothing answers at http://127"):
        remote(f"http://127.0.0.1:{free_port()}", stop=stop, notify=notices.append).decode(LATENTS)
    assert len(notices) == 3 and stop.waits == [0.25, 1.0, 2.0]
    assert str(notices[0]) == "Nothing answers there yet; trying again in 1 s (0 s so far)"


def test_an_unknown_name_is_not_tried_again() -> None:
    with pytest.raises(RemoteUnreachableError, match=r"No computer called nowhere\.invalid"):
        remote("http://nowhere.invalid/vae").decode(LATENTS)


def test_a_waking_endpoint_is_waited_for() -> None:
    notices: list[Message] = []
    waking = (503, {"content-type": "text/html", "retry-after": "0"}, b"<html>starting</html>")
    with scripted(waking, waking, (502, HTML, b""), good()) as (script, url):
        vae = remote(url, notify=notices.append)
        assert vae.decode(LATENTS).shape == IMAGE.shape
    assert len(script.requests) == 4 and vae.traffic is not None and vae.traffic.requests == 4
    assert str(notices[0]).startswith("The endpoint is waking up; trying again in 1 s")


def test_retry_after_is_honoured() -> None:
    stop = CountedWaits()
    with scripted((429, {"retry-after": "7"}, b""), good()) as (script, url):
        remote(url, stop=stop).decode(LATENTS)
    assert stop.waits == [7.0] and len(script.requests) == 2


def test_the_deadline_holds_over_all_tries() -> None:
    stop = CountedWaits()
    with (
        scripted((503, {"retry-after": "60"}, b"")) as (script, url),
        pytest.raises(RemoteRefusedError, match="busy or still starting"),
    ):
        remote(url, stop=stop, timeout=2.0).decode(LATENTS)
    assert stop.waits == [] and len(script.requests) == 1


def test_silence_ends_at_the_deadline() -> None:
    given_up, silence_over = threading.Event(), threading.Event()

    def say_nothing(handler: http.server.BaseHTTPRequestHandler) -> None:
        given_up.wait(30)
        silence_over.set()

    with scripted(say_nothing) as (_, url):
        with pytest.raises(RemoteTimeoutError, match=r"within 0\.5 s"):
            remote(url, timeout=0.5).decode(LATENTS)
        assert not silence_over.is_set(), "the client did not wait for the server"
        given_up.set()


def test_stop_hangs_up() -> None:
    hung_up, stop = threading.Event(), threading.Event()

    def wait(handler: http.server.BaseHTTPRequestHandler) -> None:
        stop.set()
        handler.connection.settimeout(30)
        if handler.connection.recv(1) == b"":
            hung_up.set()

    with scripted(wait) as (_, url):
        with pytest.raises(Cancelled):
            remote(url, stop=stop).decode(LATENTS)
        assert hung_up.wait(20), "the server still waits for a client that gave up"


def test_stop_ends_a_wait_between_tries() -> None:
    stop = threading.Event()

    def stop_soon(_: Message) -> None:
        threading.Timer(0.1, stop.set).start()

    with scripted((503, {"retry-after": "8"}, b""), good()) as (script, url):
        with pytest.raises(Cancelled, match="while waiting for the endpoint"):
            remote(url, stop=stop, notify=stop_soon).decode(LATENTS)
        assert len(script.requests) == 1, "stopped within the wait, not after it"


def test_wrong_input_never_leaves() -> None:
    with scripted(good()) as (script, url):
        with pytest.raises(UserError, match="takes"):
            remote(url).decode(torch.zeros(1, 16, 8, 8))
        with pytest.raises(UserError, match="No endpoint is set"):
            remote(None).decode(LATENTS)
    assert not script.requests


def test_errors_are_of_one_tree() -> None:
    for kind in (RemoteRefusedError, RemoteReplyError, RemoteTimeoutError, RemoteUnreachableError):
        assert issubclass(kind, RemoteError)


def test_a_spec_without_shift_sends_none() -> None:
    spec = replace(SPEC, shift_factor=None)
    with scripted(good()) as (script, url):
        RemoteVae(spec, None, url, timeout=5).decode(LATENTS)
    assert "shift_factor" not in script.requests[0][0]
