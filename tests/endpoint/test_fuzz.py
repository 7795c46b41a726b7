"""Whatever a client sends: an answer in JSON or a good reply, never a 5xx, and the server lives."""

from __future__ import annotations

import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.endpoint import Service
from backend.models import MODELS
from backend.settings import Settings
from backend.studio import Studio
from tests.serving import serve

KEYS = ["shape", "dtype", "do_scaling", "scaling_factor", "shift_factor", "output_type", "image_format",
        "partial_postprocess", "height", "width", "input_tensor_type", "other"]  # fmt: skip
VALUES = st.one_of(
    st.sampled_from(["1", "4", "8", "0", "-1", "[1,4,2,2]", "[1,3,16,16]", "1,3,8,8", "float32", "uint8", "bfloat16",
                     "pt", "pil", "png", "jpg", "True", "false", "None", "", "nan", "1e-6", "1e30", "0.5", "99999999"]),
    st.text(max_size=6),
)  # fmt: skip
BODIES = st.one_of(
    st.binary(max_size=80),
    st.sampled_from([bytes(64), bytes(3 * 256 * 4), b"\x89PNG\r\n\x1a\n", b"{}", b'{"inputs": "AAAA"}', b"[]", b"null",
                     b'{"inputs": "AAAA", "parameters": {"shape": [1], "dtype": 7}}', b"\xff\xfb" * 32]),
)  # fmt: skip
HEADERS = st.dictionaries(
    st.sampled_from(["Content-Type", "Accept"]),
    st.sampled_from(["tensor/binary", "tensor/base64", "image/png", "application/json", "text/plain", "*/*"]),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["encode", "decode", "other"]),
    st.lists(st.tuples(st.sampled_from(KEYS), VALUES), max_size=9),
    HEADERS,
    BODIES,
)
def test_nothing_sent_gives_a_fault(
    base: str, service: Service, path: str, query: list[tuple[str, str]], headers: dict[str, str], body: bytes
) -> None:
    reply = requests.post(f"{base}/vae/builtin/{path}", params=query, headers=headers, data=body, timeout=30)
    # 422: numbers so large that float32 overflows inside the VAE.
    assert reply.status_code in (200, 400, 404, 413, 415, 422), reply.text
    if reply.status_code != 200:
        assert set(reply.json()) == {"error", "code", "hint"}
    assert service.lane(service.find("builtin")).occupied <= 1


def test_the_pages_own_routes_want_the_owners_token_and_the_page_sends_it() -> None:
    from starlette.applications import Starlette

    studio = Studio(Settings(device="cpu", model="builtin", serve_token="s3cret"))
    with serve(Starlette(routes=[*studio.routes()])) as url:
        studio.own_url = url
        assert requests.get(f"{url}/vae", timeout=10).status_code == 401
        spec = MODELS["builtin"]
        token = studio.stages._token(spec, f"{url}/vae/builtin/decode")
        assert token is not None and token.for_url(url) == "s3cret"
        assert studio.stages._token(spec, "https://elsewhere.example/vae/builtin/decode") is None
        headers = {"Authorization": f"Bearer {token.for_url(url)}"}
        assert requests.get(f"{url}/vae", headers=headers, timeout=10).status_code == 200
