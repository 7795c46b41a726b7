"""Our endpoint passes every check of `backend.conformance`, and the checks notice endpoints that do not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import requests
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from backend.conformance.__main__ import find_addresses, main
from backend.conformance.check import Check, run_check
from backend.conformance.checks import CHECKS
from backend.conformance.target import Target
from backend.endpoint import Served, Service, build_app
from backend.models import BUILTIN, LatentSpec
from backend.vae.whole import Whole
from tests.endpoint.conftest import FLUX_LIKE, builtin, flux_like, service  # noqa: F401 - fixtures
from tests.serving import serve


@pytest.fixture(scope="module")
def url(service: Service) -> Iterator[str]:  # noqa: F811
    with serve(build_app(service)) as base:
        yield base


@pytest.fixture(
    scope="module", params=[("builtin", BUILTIN.latents), ("flux", FLUX_LIKE)], ids=["builtin", "flux"]
)
def target(url: str, request: pytest.FixtureRequest) -> Target:
    name, spec = request.param
    return Target(f"{url}/vae/{name}/encode", f"{url}/vae/{name}/decode", spec)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: f"{check.direction}: {check.name}")
def test_ours(target: Target, check: Check) -> None:
    check.run(target)


def test_the_command_prints_a_table(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"{url}/vae/flux"]) == 0
    printed = capsys.readouterr().out
    assert printed.endswith(f"{len(CHECKS)} ok, 0 FAILED, 0 skipped\n")
    encode, decode, description = find_addresses(f"{url}/vae/flux")
    assert (encode, decode) == (f"{url}/vae/flux/encode", f"{url}/vae/flux/decode")
    assert description is not None and description.shift_factor == 0.1159


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/", "http://127.0.0.1:port", "nonsense"])
def test_an_address_that_describes_nothing_is_used_as_it_is(address: str) -> None:
    assert find_addresses(address, "t0ken") == (address.rstrip("/"), address.rstrip("/"), None)


def test_the_only_vae_of_a_server_is_found_by_its_bare_address(service: Service) -> None:  # noqa: F811
    alone = Service([service.find("builtin")], service.limits)
    with serve(build_app(alone)) as base:
        encode, decode, description = find_addresses(f"{base}/vae")
        assert encode == decode == f"{base}/vae/" and description is not None and description.channels == 4


def test_the_bare_address_of_one_vae_is_described_to_those_who_hold_its_token(builtin: Whole) -> None:  # noqa: F811
    service = Service([Served("only", builtin.spec, lambda: builtin)], token="s3cret")  # noqa: F811
    with serve(build_app(service)) as base:
        encode, decode, description = find_addresses(base, "s3cret")
        assert (encode, decode) == (f"{base}/", f"{base}/") and description is not None
        assert description.downscale == BUILTIN.latents.downscale
        assert find_addresses(base) == (base, base, None)


def names(outcomes: dict[str, str], verdict: str) -> set[str]:
    return {name for name, found in outcomes.items() if found == verdict}


@pytest.fixture
def faulty(url: str, request: pytest.FixtureRequest) -> Iterator[Target]:
    """Our endpoint behind something that spoils it in one way."""
    spoil = request.param

    def forward(request: Request, body: bytes) -> Response:
        query = [
            pair for pair in request.query_params.multi_items() if spoil != "deaf" or "scal" not in pair[0]
        ]
        if spoil == "old" and request.query_params.get("do_scaling") is None:
            query.append(("do_scaling", "True"))
        reply = requests.post(
            f"{url}/vae/builtin{request.url.path}",
            params=query,
            data=body,
            headers={
                key: request.headers[key] for key in ("content-type", "accept") if key in request.headers
            },
            timeout=30,
        )
        if not reply.ok and spoil == "html":
            return HTMLResponse("<h1>Bad Gateway</h1>", status_code=502)
        content = reply.content[:-1] if spoil == "cut" else reply.content
        if spoil == "nan" and reply.headers.get("dtype") == "float32":
            content = b"\0\0\xc0\x7f" + content[4:]
        if spoil == "denies":
            return JSONResponse({"error": "The moon is full."})
        kept = {
            key: value for key, value in reply.headers.items() if key in ("shape", "dtype", "content-type")
        }
        return Response(content, reply.status_code, kept)

    async def handle(request: Request) -> Response:
        from starlette.concurrency import run_in_threadpool

        return await run_in_threadpool(forward, request, await request.body())

    with serve(
        Starlette(routes=[Route(path, handle, methods=["POST"]) for path in ("/encode", "/decode")])
    ) as base:
        yield Target(f"{base}/encode", f"{base}/decode", BUILTIN.latents)


@pytest.mark.parametrize(
    ("faulty", "failing"),
    [
        ("html", {"error: a GIF is 415 in JSON", "error: a body of the wrong length is 400 in JSON"}),
        (
            "cut",
            {
                "pt is float, NCHW, in [-1, 1]",
                "a PNG without a type gives raw latents, shape and dtype in headers",
            },
        ),
        (
            "deaf",
            {
                "other factors",
                "scaling_factor and shift_factor",
            },
        ),
        ("old", {"today's diffusers without scaling: nothing said means none"}),
    ],
    indirect=["faulty"],
)
def test_a_faulty_endpoint_is_noticed(faulty: Target, failing: set[str]) -> None:
    outcomes = {check.name: run_check(faulty, check).verdict for check in CHECKS if check.name in failing}
    assert names(outcomes, "FAILED") == failing


@pytest.mark.parametrize("faulty", ["nan"], indirect=True)
def test_a_value_that_is_no_number_is_noticed(faulty: Target) -> None:
    (check,) = (check for check in CHECKS if check.name == "pt is float, NCHW, in [-1, 1]")
    assert "nan" in str(run_check(faulty, check))


@pytest.mark.parametrize("faulty", ["denies"], indirect=True)
def test_an_error_that_calls_itself_a_success_is_quoted(faulty: Target) -> None:
    (check,) = (check for check in CHECKS if check.name == "pt is float, NCHW, in [-1, 1]")
    assert "The moon is full." in str(run_check(faulty, check))


def test_nobody_there_fails_without_a_crash(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["http://127.0.0.1:9/"]) == 1
    assert "FAILED" in capsys.readouterr().out


def test_help_does_not_wait_for_torch() -> None:
    code = (
        "import sys; from backend.conformance.__main__ import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: sys.exit('torch' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=60).returncode
        == 0
    )


def test_one_direction_alone(url: str) -> None:
    target = Target(None, f"{url}/vae/builtin/decode", LatentSpec(4, 8, 1.0))
    assert {run_check(target, check).verdict for check in CHECKS if check.direction == "encode"} == {
        "skipped"
    }
