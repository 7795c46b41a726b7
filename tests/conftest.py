"""Fixtures that several test files share. Everything runs on the built-in model: no GPU, no hub, no key."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# Before any library reads them: no telemetry, no hub, no chatter.
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    GRADIO_ANALYTICS_ENABLED="False",
    GRADIO_SSR_MODE="False",
    TRANSFORMERS_VERBOSITY="error",
    DIFFUSERS_VERBOSITY="error",
)

from collections.abc import Generator, Iterator

# Tiny models gain nothing from threads, and threads that spin for each other on a busy machine lose a lot.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import pytest
import requests
from PIL import Image
from starlette.applications import Starlette
from xdist.scheduler import LoadScopeScheduling

from backend.settings import Settings
from backend.studio import Studio
from tests.serving import serve

ROOT = Path(__file__).parent.parent

# -- several processes (`pytest -n 2 --dist loadfile`) ---------------------------------------------------------

TOGETHER = {
    "tests/browser/test_access.py": "browser, the page",
    "tests/browser/test_hostile.py": "browser, the page",
    "tests/browser/test_leaving.py": "browser, the page",
    "tests/browser/test_main_job.py": "browser, the page",
    "tests/browser/": "browser, journeys",
    "tests/test_app.py": "app",
    "tests/test_readme.py": "app",
    "tests/ui/test_body_limits.py": "app",
    "tests/ui/test_crowd.py": "app",
    "tests/ui/test_hostile.py": "app",
    "tests/ui/test_page_fuzz.py": "app",
    "tests/ui/test_two_visitors.py": "app",
}
"""Files that share an expensive session fixture (a browser, the app in a process of its own) and so a process."""
FIRST = (
    "browser",
    "app",
    "tests/load/",
    "tests/test_families.py",
    "tests/run/test_img2img.py",
    "tests/vae/",
    "tests/faults/",
    "tests/test_training.py",
    "tests/placement/",
)
"""The longest go first, so that no process is left with one of them at the end."""


def group_of(nodeid: str) -> str:
    """The tests that run in one process, one after the other: a file, or one of the groups above."""
    file = nodeid.partition("::")[0]
    return next((group for start, group in TOGETHER.items() if file.startswith(start)), file)


class ByGroup(LoadScopeScheduling):
    """Like `--dist loadfile`, but with the groups above, and in the order of collection."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByGroup | None:
    if config.option.dist != "loadfile":
        return None
    config.option.loadscopereorder = False
    return ByGroup(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long groups first, and last those that have the machine to themselves."""

    def place(item: pytest.Item) -> int:
        if item.get_closest_marker("serial"):
            return len(FIRST) + 1
        group = group_of(item.nodeid)
        return next((n for n, start in enumerate(FIRST) if group.startswith(start)), len(FIRST))

    items.sort(key=place)


def pytest_collection_finish() -> None:
    """What was imported by now stays, so no garbage collection of the tests needs to look through it again."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """With several processes, a test marked `serial` waits until the others' tests are over, and they for it."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return (yield)
    with machine(shared=not item.get_closest_marker("serial")):
        return (yield)


@contextlib.contextmanager
def machine(*, shared: bool) -> Iterator[None]:
    """Hold the machine, together with others or alone. Who wants it alone keeps the gate shut while it waits."""
    with Path(__file__).open() as held, (ROOT / "pyproject.toml").open() as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(held, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        if shared:
            fcntl.flock(gate, fcntl.LOCK_UN)
        yield  # closing the files gives both back


# -- fixtures --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def studio() -> Iterator[Studio]:
    """One Studio on the built-in model, its VAE routes served on a real port, for all tests that only use it."""
    studio = Studio(Settings(device="cpu", model="builtin"))
    with serve(Starlette(routes=studio.routes())) as url:
        studio.self_url = url
        yield studio


@pytest.fixture(scope="session")
def app_url(watched_app: tuple[str, int]) -> str:
    """The real app in a process of its own, as `python app.py` starts it; its URL once the page answers."""
    return watched_app[0]


@pytest.fixture(scope="session")
def watched_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """The URL of the real app, and the port at which `benchmarks.watch.observe` asks for its event loop's pauses."""
    with socket.socket() as one, socket.socket() as other:
        for probe in (one, other):
            probe.bind(("127.0.0.1", 0))
        port, watch = (probe.getsockname()[1] for probe in (one, other))
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "benchmarks.watch", str(watch), "app.py"]
    command += ["--port", str(port), "--device", "cpu", "--model", "builtin"]
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
            yield url, watch
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
