"""Fixtures that several test files share. Everything runs on the built-in model: no GPU, no hub, no key."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Before any library reads them: no telemetry, no hub, no chatter.
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    GRADIO_ANALYTICS_ENABLED="False",
    GRADIO_SSR_MODE="False",
    TRANSFORMERS_VERBOSITY="error",
    DIFFUSERS_VERBOSITY="error",
)

from collections.abc import Iterator

# Tiny models gain nothing from threads, and threads that spin for each other on a busy machine lose a lot.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import requests
from PIL import Image
from starlette.applications import Starlette

from backend.settings import Settings
from backend.studio import Studio
from tests.serving import serve

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def studio() -> Iterator[Studio]:
    """One Studio on the built-in model, its VAE routes served on a real port, for all tests that only use it."""
    studio = Studio(Settings(device="cpu", model="builtin"))
    with serve(Starlette(routes=studio.routes())) as url:
        studio.self_url = url
        yield studio


@pytest.fixture(scope="session")
def app_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The real app in a process of its own, as `python app.py` starts it; gives its URL once the page answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "app.py", "--port", str(port), "--device", "cpu", "--model", "builtin"]
    command += ["--folder", str(tmp_path_factory.mktemp("app"))]
    with tempfile.TemporaryFile("w+") as log:
        app = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        try:
            for _ in range(1200):
                try:
                    if requests.get(url, timeout=5).ok:
                        break
                except requests.ConnectionError:
                    time.sleep(0.1)
                if app.poll() is not None:
                    log.seek(0)
                    pytest.fail(f"app.py ended by itself:\n{log.read()}")
            yield url
        finally:
            app.terminate()
            app.wait(30)


@pytest.fixture(scope="session")
def picture() -> Image.Image:
    return small_picture()


def small_picture() -> Image.Image:
    """A smooth, colourful RGB picture of 96 by 64 pixels: pleasant for a VAE, and not symmetric."""
    colours = np.random.default_rng(7).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((96, 64), Image.Resampling.BICUBIC)
