"""The page on a free port and a headless Chromium, for the browser tests and the screenshots command."""

from __future__ import annotations

import contextlib
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ui.page import build_page, launch_options
from ui.runs import Runs

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextlib.contextmanager
def page_of(studio: Any, folder: Path) -> Iterator[str]:
    """Serve the page of `studio`; gives its address with a slash at the end."""
    runs = Runs(folder)
    demo = build_page(studio, runs)
    with socket.socket() as probe:  # Gradio's own search leaves a socket open for each port it finds taken
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    _, url, _ = demo.launch(
        server_name="127.0.0.1",
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        ssr_mode=False,
        enable_monitoring=False,
        **launch_options(runs, studio),
    )
    studio.self_url = url
    try:
        yield url
    finally:
        demo.close(verbose=False)


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            yield chromium
        finally:
            chromium.close()


class WatchedPages:
    """Opens pages and notes what a quiet page never does: console errors, and requests to other hosts."""

    def __init__(self, chromium: Any) -> None:
        self.chromium = chromium
        self.complaints: list[str] = []
        self.contexts: list[Any] = []

    def open(
        self, url: str, *, width: int = 1280, height: int = 900, ready: str = "#lr-paint", **context: Any
    ) -> Any:
        """A page of its own context, once `ready` is there: the big button of the first tab."""
        settings = {"locale": "en-US", "reduced_motion": "reduce"} | context
        self.contexts.append(
            self.chromium.new_context(viewport={"width": width, "height": height}, **settings)
        )
        page = self.contexts[-1].new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda m: self._complain(f"console: {m.text}") if m.type == "error" else None)
        page.on("pageerror", lambda error: self._complain(f"error: {error}"))
        page.on("request", lambda request: self._request(request.url))
        page.goto(url)
        page.locator(ready).first.wait_for()
        # Gradio covers the page until it is ready for clicks.
        page.locator(".gradio-container > .wrap.translucent, .wrap.full.translucent").first.wait_for(
            state="hidden"
        )
        return page

    def sound(self) -> None:
        """No complaint so far."""
        assert not self.complaints, self.complaints

    def reload(self, page: Any) -> None:
        """Reload a page; what its connections say while they are torn down is no fault of the page's."""
        before = len(self.complaints)
        page.reload()
        page.locator("#lr-paint").wait_for()
        torn = ("AbortError", "Connection errored out")
        self.complaints[before:] = [
            text for text in self.complaints[before:] if not any(sign in text for sign in torn)
        ]

    def _complain(self, text: str) -> None:
        self.complaints.append(text)

    def _request(self, url: str) -> None:
        if not url.startswith(("http://127.0.0.1:", "data:", "blob:")):
            self._complain(f"request to {url}")

    def close(self) -> None:
        """Close the pages; must come before their server goes, or they complain that it is gone."""
        while self.contexts:
            self.contexts.pop().close()
