"""Whatever a client sends: an answer in JSON or a good reply, never a 5xx, and the server lives.

A short run of `python -m tests.fuzz`, whose long runs are in docs/faults.md.
"""

from __future__ import annotations

import pytest
import requests
from hypothesis import HealthCheck, Phase, given, settings

from backend.endpoint import Service
from backend.job import VaeOptions
from backend.models import MODELS
from backend.remote.endpoints import resolve
from backend.settings import Settings
from backend.studio import Studio
from tests.fuzz.attacks import Attack, attacks, valid
from tests.fuzz.campaign import Answer, Tally, attack, exchange, judge
from tests.fuzz.described import cases, try_case
from tests.serving import serve

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about what is broken

SHORT = settings(
    max_examples=120,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("sound", valid(), ids=lambda one: f"{one.method} {one.path} {dict(one.query)}"[:60])
def test_what_is_mutated_is_valid_at_first(base: str, sound: Attack) -> None:
    """Else every mutant would be refused at once, and nothing further inside would be reached."""
    answer = exchange(base, sound)
    assert answer.status == (404 if sound.path == "/" else 200)  # two VAEs here, so "/" does not say which


def test_nothing_sent_gives_a_fault(base: str, service: Service) -> None:
    @SHORT
    @given(attacks())
    def shots(wrong: Attack) -> None:
        tally = Tally()
        attack(base, wrong, tally)
        assert not tally.findings

    shots()
    assert service.queue_of(service.find("builtin")).in_flight <= 1


def test_the_description_tells_the_truth(base: str) -> None:
    with requests.Session() as session:

        @settings(SHORT, max_examples=40)  # schemathesis takes its time
        @given(cases(base))
        def shots(case: object) -> None:
            tally = Tally()
            try_case(base, case, session, tally)
            assert not tally.findings

        shots()


@pytest.mark.parametrize(
    ("answer", "finding"),
    [
        (Answer(500, {}, b"{}"), "status 500"),
        (Answer(404, {"content-type": "text/html"}, b"<html>"), "text/html"),
        (Answer(400, {"content-type": "application/json"}, b'{"error": "no"}'), "an error that says"),
        (
            Answer(
                400,
                {"content-type": "application/json"},
                b'{"error": "/usr/lib/site-packages/x.py", "code": "", "hint": "", "request_id": "a"}',
            ),
            "it reveals",
        ),
    ],
)
def test_a_bad_answer_is_noticed(answer: Answer, finding: str) -> None:
    assert finding in str(judge(valid()[0], answer))


def test_the_pages_own_routes_want_the_owners_token_and_the_page_sends_it() -> None:
    from starlette.applications import Starlette

    studio = Studio(Settings(device="cpu", model="builtin", serve_token="s3cret"))
    with serve(Starlette(routes=[*studio.routes()])) as url:
        studio.self_url = url
        assert requests.get(f"{url}/vae", timeout=10).status_code == 401
        endpoint = resolve(MODELS["builtin"], "decode", VaeOptions("remote"), studio.settings, url)
        token = endpoint and endpoint.token
        assert token is not None and token.for_url(url) == "s3cret"
        assert token.for_url("https://elsewhere.example/vae/builtin/decode") is None
        headers = {"Authorization": f"Bearer {token.for_url(url)}"}
        assert requests.get(f"{url}/vae", headers=headers, timeout=10).status_code == 200
