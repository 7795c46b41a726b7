"""Pictures over the endpoint's cap travel in parts, tokens stay with their hosts, a batch overlaps."""

from __future__ import annotations

import threading
import time
from itertools import pairwise

import pytest
import requests
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.endpoint import Limits, Served, Service, build_app
from backend.errors import BadSettingError, RemoteRefusedError
from backend.models import BUILTIN, SD_V1
from backend.remote.parts import in_parts, starts
from backend.remote.vae import RemoteVae
from backend.run.overlap import pipelined
from backend.settings import EndpointPair, Settings, parse_tokens, read_settings
from backend.token import Token
from backend.vae.whole import Whole
from tests.serving import scripted, serve

SPEC = BUILTIN.latents


@settings(deadline=None)
@given(st.integers(1, 2000), st.integers(64, 512), st.integers(0, 64))
def test_parts_cover_everything_and_overlap(length: int, max_length: int, overlap: int) -> None:
    size, begins = starts(length, max_length, overlap)
    assert size <= max_length and begins[0] == 0 and begins[-1] + size == length
    if len(begins) > 1:
        shared = size - max(after - before for before, after in pairwise(begins))
        assert shared >= min(overlap, max_length // 4) - 1


@pytest.mark.parametrize("shape", [(40, 70), (200, 90), (64, 64), (65, 300)])
def test_blending_is_exact_for_work_that_looks_at_one_pixel(shape: tuple[int, int]) -> None:
    tensor = torch.randn(1, 2, *shape)
    result, _ = in_parts(tensor, lambda part: part * 2, 64, unit=1, factor=1)
    torch.testing.assert_close(result, tensor * 2)
    grown, parts = in_parts(
        tensor, lambda part: part.repeat_interleave(8, 2).repeat_interleave(8, 3), 64, unit=1, factor=8
    )
    torch.testing.assert_close(grown, tensor.repeat_interleave(8, 2).repeat_interleave(8, 3))
    assert parts == len(starts(shape[0], 64, 32)[1]) * len(starts(shape[1], 64, 32)[1])
    large = torch.randn(1, 3, shape[0] * 8, shape[1] * 8)
    shrunk, _ = in_parts(
        large, lambda part: torch.nn.functional.avg_pool2d(part, 8), 512, unit=8, factor=1 / 8
    )
    torch.testing.assert_close(shrunk, torch.nn.functional.avg_pool2d(large, 8), rtol=0, atol=1e-6)


def test_a_picture_over_the_cap_is_sent_in_parts_and_said_so(base: str, builtin: Whole) -> None:
    latents = torch.nn.functional.interpolate(torch.randn(1, 4, 3, 5), size=(40, 72), mode="bicubic")
    remote = RemoteVae(SPEC, f"{base}/vae/builtin/encode", f"{base}/vae/builtin/decode", max_side=160)
    image = remote.decode(latents)
    assert remote.traffic is not None and remote.traffic.parts == 3 and remote.traffic.requests == 3
    assert image.shape == (1, 3, 160, 288)
    # Not exact, each part has its own statistics; but near, and without a hard seam.
    assert float((image - builtin.decode(latents)).abs().mean()) < 0.1
    back = remote.encode(image)
    assert back.shape == latents.shape and remote.traffic.parts == 3
    assert float((back - builtin.encode(image)).abs().mean()) < 0.1


def test_an_endpoint_with_a_smaller_cap_is_met_halfway(builtin: Whole) -> None:
    # This server takes 256 x 256 pixels; the client does not know.
    service = Service([Served("only", builtin.spec, lambda: builtin)], Limits(max_pixels=256 * 256))
    with serve(build_app(service)) as url:
        remote = RemoteVae(SPEC, None, url)
        image = remote.decode(torch.zeros(1, 4, 32, 80))
        assert image.shape == (1, 3, 128, 320) and remote.traffic is not None and remote.traffic.parts == 1
        image = remote.decode(torch.zeros(1, 4, 64, 72))
        assert image.shape == (1, 3, 256, 288) and remote.traffic.parts > 1


def test_too_large_for_good_ends_with_the_sentence() -> None:
    with (
        scripted((413, {}, b'{"error": "Too big."}')) as (script, url),
        pytest.raises(RemoteRefusedError, match="too large"),
    ):
        RemoteVae(SPEC, None, url).decode(torch.zeros(1, 4, 128, 128))
    assert len(script.requests) <= 4


def test_a_token_is_bound_to_the_origins_it_was_given_for() -> None:
    token = Token.bound_to("s3cret", "https://a.example/vae", None, "http://b.example:8080/x")
    assert token.for_url("https://a.example:443/other") == "s3cret"
    assert token.for_url("http://b.example:8080/") == "s3cret"
    for url in (
        "http://a.example/vae",
        "https://a.example:444/",
        "https://evil.a.example/",
        "http://b.example/",
    ):
        assert token.for_url(url) is None
    assert "s3cret" not in repr(token)


def test_the_owners_token_never_reaches_a_public_default() -> None:
    settings = Settings(
        endpoints={"sd-v1": EndpointPair(decode="https://mine.example/decode")}, tokens={"sd-v1": "s3cret"}
    )
    token = settings.endpoint_token(SD_V1)
    assert token is not None and token.for_url("https://mine.example/decode") == "s3cret"
    default = settings.default_endpoints(SD_V1)
    assert default.encode and token.for_url(default.encode) is None
    assert settings.endpoint_token(BUILTIN) is None and "s3cret" not in repr(settings)


def test_tokens_come_from_the_environment_and_errors_do_not_quote_them() -> None:
    settings = read_settings([], {"LATENT_RELAY_TOKENS": "sd-v1=abc=def builtin=x"})
    assert settings.tokens == {"sd-v1": "abc=def", "builtin": "x"}
    for text in ("s3cret", "nobody=s3cret", "sd-v1="):
        with pytest.raises(BadSettingError) as caught:
            parse_tokens(text)
        assert "s3cret" not in caught.value.sentence


def test_decoding_runs_behind() -> None:
    events: list[str] = []
    busy = threading.Event()

    def decode(number: int) -> int:
        busy.set()
        time.sleep(0.1)
        events.append(f"decoded {number}")
        return number * 10

    def source() -> object:
        for number in range(3):
            if number:
                assert busy.wait(5)  # the one before is being decoded while this one is made
                busy.clear()
            events.append(f"made {number}")
            yield number

    assert list(pipelined(source(), decode)) == [0, 10, 20]  # type: ignore[arg-type]
    assert events.index("made 1") < events.index("decoded 0") < events.index("decoded 1")


def test_an_error_behind_comes_out() -> None:
    def decode(number: int) -> int:
        raise RemoteRefusedError("No.")

    with pytest.raises(RemoteRefusedError):
        list(pipelined(range(3), decode))


def test_transfer_and_loss_are_reported(base: str) -> None:
    for transfer, lossless in (("jpg", False), ("png", True)):
        remote = RemoteVae(SPEC, None, f"{base}/vae/builtin/decode", transfer=transfer)  # type: ignore[arg-type]
        remote.decode(torch.zeros(1, 4, 8, 8))
        assert remote.traffic is not None
        assert (remote.traffic.transfer, remote.traffic.lossless) == (transfer, lossless)


def test_the_list_is_there_for_preflight(base: str) -> None:
    assert requests.get(f"{base}/vae/builtin", timeout=10).json()["fixed_scale"] is False
