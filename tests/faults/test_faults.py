"""Every fault: the sentence, the tries, what `auto` does, and that nothing made before it is lost."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import torch
import trustme
from PIL import Image

from backend.errors import RemoteError
from backend.events import Result
from backend.remote.net import new_session
from backend.remote.vae import RemoteVae
from backend.studio import Studio
from tests.faults import server
from tests.faults.matrix import FAULTS
from tests.faults.outcome import REMOTE, Outcome, StageOutcome, client, job, try_all
from tests.faults.server import Spoiler, spoiling
from tests.faults.table import DOC, replaced, table

BY_TITLE = pytest.mark.parametrize("title", [fault.title for fault in FAULTS])


@pytest.fixture(scope="module")
def finished(studio: Studio, picture: Image.Image) -> Iterator[Result]:
    """A run without fault, finished before all the faults; it must still be the same after them."""
    *_, result = studio.img2img(job(picture))
    assert isinstance(result, Result)
    pixels, numbers, upload = result.image.tobytes(), result.latents.clone(), picture.tobytes()
    yield result
    assert result.image.tobytes() == pixels and torch.equal(result.latents, numbers)
    assert picture.tobytes() == upload


@pytest.fixture(scope="module")
def outcomes(studio: Studio, picture: Image.Image, finished: Result) -> dict[str, Outcome]:
    return try_all(FAULTS, studio, picture)


def stages(outcome: Outcome) -> list[tuple[str, StageOutcome]]:
    return list(outcome.stage.items())


@BY_TITLE
def test_the_person_reads_what_is_wrong_and_what_to_do(outcomes: dict[str, Outcome], title: str) -> None:
    for stage, found in stages(outcomes[title]):
        expected = outcomes[title].fault.expects(stage)
        if expected.kind is None:
            assert found.error is None, found.error
            assert found.report is not None and found.report.traffic is not None
            assert found.report.traffic.requests == expected.tries
            continue
        assert type(found.error) is expected.kind, found.error
        assert expected.phrase in found.error.sentence and found.error.hint
        # No secret of the address, no markup, no inner parts: a sentence that anybody may read.
        assert not re.search(r"token=|<|Traceback|urllib3|Errno|object at 0x", found.error.sentence)
        assert found.error.run_id, "the run's id leads to its entry in the log"


@BY_TITLE
def test_only_what_another_try_may_cure_is_posted_again(outcomes: dict[str, Outcome], title: str) -> None:
    for stage, found in stages(outcomes[title]):
        tries = outcomes[title].fault.expects(stage).tries
        if found.tries is None:
            continue
        assert found.tries == tries if tries is not None else found.tries >= 2
        assert len(set(found.ids)) == 1 and found.ids[0], "every try carries the run's id"


@BY_TITLE
def test_auto_goes_on_here_and_says_why(outcomes: dict[str, Outcome], title: str) -> None:
    report = outcomes[title].auto
    if outcomes[title].fault.expected.kind is None:
        assert report.mode == "remote" and report.traffic is not None
        return
    assert (report.mode, report.requested_mode) == ("tiled", "auto")
    error = outcomes[title].stage["decode" if "decode" in outcomes[title].stage else "encode"].error
    assert error is not None
    without_port = re.sub(r":\d+", "", str(error))
    assert f"“remote” was tried first and failed. {without_port}" in re.sub(r":\d+", "", report.reason)


@BY_TITLE
def test_what_was_denoised_survives(outcomes: dict[str, Outcome], finished: Result, title: str) -> None:
    run = outcomes[title].run
    if run is None:
        pytest.skip("found out before the denoising")
    assert torch.equal(run.denoised, finished.latents)
    assert run.rescued.tobytes() == finished.image.tobytes()
    assert (run.error is None) == (outcomes[title].fault.expected.kind is None)


def test_the_table_in_the_docs_is_what_came_back(outcomes: dict[str, Outcome]) -> None:
    text = DOC.read_text()
    assert replaced(text, table(outcomes)) == text, "stale: run python -m tests.faults --write"


def test_a_fault_that_comes_before_the_denoising_stops_it_there(studio: Studio, picture: Image.Image) -> None:
    seen = []
    with server.refusing() as url, pytest.raises(RemoteError) as caught:
        for event in client(studio, url, 5.0).img2img(job(picture, decode=REMOTE)):
            seen.append(type(event).__name__)
    assert "Nothing was painted yet" in caught.value.sentence and caught.value.run_id
    assert "Step" not in seen and "StageDone" in seen


def test_the_certificate_was_all_that_was_wrong(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its authority trusted, the same kind of server is used without a word."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "authority.pem"))
    spoiler = Spoiler(studio.self_url or "", server.changed(lambda reply: reply))
    latents = torch.zeros(1, 4, 8, 12)
    spec = studio.default_model()[0].latents
    with spoiling(spoiler, authority.issue_cert("127.0.0.1")) as url:
        assert url.startswith("https://")
        remote = RemoteVae(spec, None, f"{url}/vae/builtin/decode", session=new_session(), timeout=30)
        assert remote.decode(latents).shape == (1, 3, 32, 48)


def test_the_endpoints_id_is_in_the_sentence_and_in_its_answer(studio: Studio) -> None:
    spec = studio.default_model()[0].latents
    with pytest.raises(RemoteError) as caught:
        RemoteVae(spec, None, f"{studio.self_url}/vae/nobody/decode", request_id="run-4711").decode(
            torch.zeros(1, 4, 8, 12)
        )
    assert caught.value.sentence.endswith("(Request run-4711)")
    reply = requests.post(
        f"{studio.self_url}/vae/nobody/decode", headers={"X-Request-Id": "run-4711"}, timeout=10
    )
    assert reply.headers["x-request-id"] == reply.json()["request_id"] == "run-4711"


def test_every_fault_of_the_list_is_there() -> None:
    titles = " ".join(fault.title for fault in FAULTS)
    for word in ("refused", "DNS", "TLS", "No answer", "drip", "401", "403", "404", "413", "429", "500", "502", "503",
                 "Retry-After", "HTML", "truncated", "shape", "dtype", "NaN", "Redirect", "dropped",
                 "killed"):  # fmt: skip
        assert word in titles
