"""Fixtures of the browser tests. Without a Chromium they are skipped, and say so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from backend.settings import Settings
from backend.studio import Studio
from tests.browser.launching import CHROMIUM, WatchedPages, browser, page_of
from tests.fakes import FakeStudio


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/browser/" in str(item.path):
            item.add_marker(pytest.mark.browser)
            # A browser on a busy machine may miss a moment; the rerun is shown, and a real fault fails twice.
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    with browser() as chromium:
        yield chromium


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page of a real Studio on the built-in model."""
    import torch

    torch.set_num_threads(1)  # the browser needs a core, too
    with page_of(Studio(Settings(device="cpu", model="builtin")), tmp_path_factory.mktemp("runs")) as url:
        yield url


@pytest.fixture(scope="session")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page of a Studio that answers at once, for journeys that are about the page."""
    with page_of(FakeStudio(), tmp_path_factory.mktemp("runs")) as url:
        yield url


@pytest.fixture
def watched(chromium: Any) -> Iterator[WatchedPages]:
    """Opens pages that must stay without a console error and without a request to another host."""
    watched = WatchedPages(chromium)
    yield watched
    watched.close()
    watched.sound()
