"""An endpoint killed under a run, without a word, and started again: the run waits for it and loses nothing."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
import requests
from PIL import Image

from backend.events import Result, StageDone, Step, Waiting
from backend.quality import psnr
from backend.studio import Studio
from tests.conftest import ROOT
from tests.faults.outcome import REMOTE, client, job
from tests.waiting import wait_until


class Endpoint:
    """`python -m backend.endpoint` in a process of its own, at a port that stays."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "backend.endpoint", "--port", str(self.port), "--device", "cpu"]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=quiet, stderr=quiet)

    def is_ready(self) -> bool:
        with contextlib.suppress(requests.ConnectionError):
            return requests.get(f"{self.url}/ready", timeout=5).ok
        return False

    def wait_until_ready(self) -> None:
        wait_until(self.is_ready, 120.0, "the endpoint did not start")

    def kill(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(20)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    one = Endpoint()
    one.start()
    try:
        one.wait_until_ready()
        yield one
    finally:
        one.kill()


@pytest.mark.slow
def test_a_run_outlives_its_endpoint(studio: Studio, picture: Image.Image, endpoint: Endpoint) -> None:
    *_, expected = studio.img2img(job(picture))
    assert isinstance(expected, Result)
    killed, notices, kept = False, [], []
    result = None
    for event in client(studio, endpoint.url, 120.0).img2img(job(picture, encode=REMOTE, decode=REMOTE)):
        if isinstance(event, Step) and not killed:
            endpoint.kill()
            endpoint.start()
            killed = True
        if isinstance(event, StageDone) and event.latents is not None:
            kept.append(event.latents)
        if isinstance(event, Waiting):
            notices.append(str(event.message))
        if isinstance(event, Result):
            result = event
    assert killed and len(kept) == 2 and result is not None
    assert any("trying again in" in message for message in notices), notices
    decoded = result.reports[-1]
    assert decoded.mode == "remote" and decoded.traffic is not None and decoded.traffic.requests > 1
    assert psnr(result.image, expected.image) > 45, "the same picture, but for rounding on the way"
