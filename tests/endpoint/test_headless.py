"""`python -m backend.endpoint` as a process of its own: many VAEs, readiness, and a stop that loses nobody."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import torch
from diffusers import AutoencoderTiny

from backend.device.queue import DeviceQueue
from backend.endpoint.__main__ import main
from backend.endpoint.source import Source, parse_source
from backend.errors import BadSettingError, ModelUnavailableError, UnsupportedVAEError
from backend.models import BUILTIN
from tests.endpoint.conftest import tiny_kl


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("vaes")
    torch.manual_seed(0)
    tiny_kl(latent_channels=16, scaling_factor=0.3611, shift_factor=0.1159).save_pretrained(root / "kl")
    AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 1),
    ).save_pretrained(root / "tiny")
    return root


class Process:
    """A running server, its address and its log."""

    def __init__(self, *flags: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "backend.endpoint", "--port", "0", "--device", "cpu", *flags],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        self.log = ""
        self.url = ""
        self._found = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self._found.wait(60), self.log

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            for line in lines:
                self.log += line
                if found := re.search(r"running on (http://\S+)", line):
                    self.url = found[1]
                    self._found.set()
        self._found.set()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + 180  # for a busy machine
        while requests.get(f"{self.url}/ready", timeout=10).status_code != 200:
            assert time.monotonic() < deadline, self.log
            time.sleep(0.1)


@pytest.fixture(scope="module")
def server(folders: Path) -> Iterator[Process]:
    vaes = {"builtin": BUILTIN.repository, "sixteen": folders / "kl", "tiny": folders / "tiny"}
    flags = [part for name, folder in vaes.items() for part in ("--vae", f"{name}={folder}")]
    process = Process(*flags, LATENT_RELAY_SERVE_TOKEN="s3cret")
    yield process
    process.end()


def test_one_process_serves_many_and_stops_without_losing_anyone(server: Process) -> None:
    headers = {"Authorization": "Bearer s3cret"}
    assert requests.get(f"{server.url}/health", timeout=10).status_code == 200
    server.wait_until_ready()
    listed = requests.get(f"{server.url}/vae", headers=headers, timeout=10).json()["vaes"]
    listed = {
        vae["name"]: (vae["channels"], vae["scaling_factor"], vae["shift_factor"], vae["ready"])
        for vae in listed
    }
    assert listed == {
        "builtin": (4, BUILTIN.latents.scaling_factor, None, True),
        "sixteen": (16, 0.3611, 0.1159, True),
        "tiny": (4, 1.0, None, True),
    }
    for name, channels in (("builtin", 4), ("sixteen", 16), ("tiny", 4)):
        url = f"{server.url}/vae/{name}/decode?shape=1&shape={channels}&shape=8&shape=8&dtype=float32"
        reply = requests.post(url, data=bytes(channels * 256), headers=headers, timeout=30)
        assert reply.status_code == 200 and reply.headers["content-type"] == "image/jpeg", reply.text

    # A decode of about a second, and the signal in the midst of it.
    answers: list[Any] = []

    def post() -> None:
        query = "shape=1&shape=4&shape=56&shape=56&dtype=uint8&scaling_factor=100"
        url = f"{server.url}/vae/builtin/decode?{query}"
        answers.append(requests.post(url, data=bytes(4 * 56 * 56), headers=headers, timeout=60))

    threads = [threading.Thread(target=post) for _ in range(3)]
    for thread in threads:
        thread.start()
    taken = ""
    while "} 3.0" not in taken:
        metrics = requests.get(f"{server.url}/metrics", headers=headers, timeout=10).text
        taken = next(
            (line for line in metrics.splitlines() if line.startswith("latent_relay_places_taken")), ""
        )
    server.process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert server.process.wait(20) == 0
    assert "everything inside was answered" in server.log
    assert "s3cret" not in server.log and "Traceback" not in server.log
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{server.url}/health", timeout=5)


def test_a_vae_that_cannot_be_served_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--vae", f"x={tmp_path}"]) == 2
    assert "No VAE was found" in capsys.readouterr().err
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderOobleck"}')
    with pytest.raises(UnsupportedVAEError, match="AutoencoderOobleck"):
        Source("x", str(tmp_path), "cpu", "auto", DeviceQueue())
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelUnavailableError, match="no JSON"):
        Source("x", str(tmp_path), "cpu", "auto", DeviceQueue())


def test_missing_weights_are_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    with pytest.raises(ModelUnavailableError, match="weights of “x”"):
        Source("x", str(tmp_path), "cpu", "auto", DeviceQueue()).module()


@pytest.mark.parametrize("text", ["", "name", "=folder", "a b=folder", "../x=folder", "ä=folder", "x="])
def test_a_source_that_makes_no_sense(text: str) -> None:
    with pytest.raises(BadSettingError):
        parse_source(text)


def test_a_dtype_can_be_chosen(folders: Path) -> None:
    assert Source("x", str(folders / "kl"), "cpu", "bfloat16", DeviceQueue()).module().dtype == torch.bfloat16
    assert Source("x", str(folders / "kl"), "cpu", "auto", DeviceQueue()).module().dtype == torch.float32
