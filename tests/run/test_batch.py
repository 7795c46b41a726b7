"""Several pictures in a row: what overlaps, and what a failure or the stop button leaves. Real HTTP to a second app."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image
from starlette.applications import Starlette

from backend.errors import BadSettingError, Cancelled, RemoteError
from backend.events import Failed, InBatch, Result, StageDone, StageStarted, Step
from backend.job import Job, VaeOptions
from backend.remote.vae import RemoteVae
from backend.settings import EndpointPair, Settings
from backend.studio import Studio
from tests.serving import serve

WHOLE, REMOTE = VaeOptions("whole"), VaeOptions("remote")


@pytest.fixture(scope="module")
def gate() -> threading.Event:
    """Decodes of the tests' pictures wait for it at the endpoint; look-aheads, which are smaller, do not."""
    return threading.Event()


@pytest.fixture(scope="module")
def studio(gate: threading.Event) -> Iterator[Studio]:
    """A studio whose endpoint is another one's."""
    far = Starlette(routes=Studio(Settings(device="cpu")).routes())

    async def gated(scope: Any, receive: Any, send: Any) -> None:
        if scope.get("path", "").endswith("/decode") and b"shape=24" in scope["query_string"]:
            await asyncio.to_thread(gate.wait, 60)
        await far(scope, receive, send)

    with serve(gated) as url:
        pair = EndpointPair(f"{url}/vae/builtin/encode", f"{url}/vae/builtin/decode")
        yield Studio(Settings(device="cpu", endpoints={"builtin": pair}))


@pytest.fixture(autouse=True)
def opened(gate: threading.Event) -> Iterator[None]:
    gate.set()
    yield
    gate.set()


def jobs(picture: Image.Image, decode: VaeOptions, count: int = 3) -> list[Job]:
    """Three of six steps at 96 by 64, one seed after the other."""
    first = Job(
        picture,
        "a lake",
        strength=0.5,
        num_inference_steps=6,
        width=96,
        height=64,
        encode=WHOLE,
        decode=decode,
    )
    return [replace(first, seed=seed) for seed in range(count)]


def results(events: list[InBatch]) -> dict[int, Result]:
    return {e.index: e.event for e in events if isinstance(e.event, Result)}


def test_a_decode_elsewhere_overlaps_the_next_painting(
    studio: Studio, picture: Image.Image, gate: threading.Event
) -> None:
    """The endpoint holds the first decode back until the second picture is being painted, so it must be, meanwhile."""
    gate.clear()
    events = []
    for item in studio.batch(jobs(picture, REMOTE)):
        events.append(item)
        if item.index == 1 and isinstance(item.event, Step):
            gate.set()
    order = [(item.index, type(item.event)) for item in events]
    began = next(
        i
        for i, e in enumerate(events)
        if e.index == 0 and isinstance(e.event, StageStarted) and e.event.stage == "decode"
    )
    assert began < order.index((1, Step)) < order.index((0, Result))
    done = results(events)
    assert sorted(done) == [0, 1, 2]
    first, last = done[0].reports[-1], done[2].reports[-1]
    assert first.overlapped_seconds and "next picture" in str(first.reason)
    assert first.overlapped_seconds <= first.cost.seconds
    assert last.overlapped_seconds == 0.0 and "next picture" not in str(last.reason)
    alone = list(studio.img2img(jobs(picture, REMOTE)[1]))[-1]
    assert isinstance(alone, Result) and alone.image.tobytes() == done[1].image.tobytes()
    assert alone.reports[-1].overlapped_seconds is None


def test_what_stays_here_comes_one_after_the_other(studio: Studio, picture: Image.Image) -> None:
    events = list(studio.batch(jobs(picture, WHOLE, 2)))
    indices = [item.index for item in events]
    assert indices == sorted(indices) and sorted(results(events)) == [0, 1]
    assert results(events)[0].reports[-1].overlapped_seconds is None


def test_this_apps_own_endpoint_shares_the_device_and_waits(picture: Image.Image) -> None:
    """Behind minutes of painting on the same device it would only run into its deadline."""
    alone = Studio(Settings(device="cpu"))
    with serve(Starlette(routes=alone.routes())) as url:
        alone.self_url = url
        events = list(alone.batch(jobs(picture, REMOTE, 2)))
    assert [item.index for item in events] == sorted(item.index for item in events)
    assert sorted(results(events)) == [0, 1]


def test_a_failed_decode_leaves_its_latents_and_the_others(
    studio: Studio, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = RemoteVae.decode, []

    def once_broken(self: RemoteVae, latents: torch.Tensor) -> torch.Tensor:
        if latents.shape[-1] == 24:
            seen.append(latents)
            if len(seen) == 2:
                raise RemoteError("The endpoint broke.")
        return real(self, latents)

    monkeypatch.setattr(RemoteVae, "decode", once_broken)
    events = list(studio.batch(jobs(picture, REMOTE)))
    assert sorted(results(events)) == [0, 2]
    failed = [item for item in events if isinstance(item.event, Failed)]
    assert [item.index for item in failed] == [1] and "broke" in str(failed[0].event.error)  # type: ignore[union-attr]
    kept = [e.event.latents for e in events if e.index == 1 and isinstance(e.event, StageDone)]
    assert studio.decode(kept[1], "builtin", WHOLE)[0].size == (96, 64)  # type: ignore[arg-type]


def test_stopping_keeps_what_was_painted(studio: Studio, picture: Image.Image, gate: threading.Event) -> None:
    gate.clear()
    stop, kept = threading.Event(), []
    with pytest.raises(Cancelled):
        for item in studio.batch(jobs(picture, REMOTE), stop):
            if isinstance(item.event, StageDone) and item.event.report.stage == "denoise":
                kept.append(item.event.latents)
            if item.index == 1 and isinstance(item.event, Step):
                stop.set()
    assert len(kept) == 1 and studio.loader.queue.waiting == 0


def test_bad_settings_of_any_are_refused_before_anything_runs(studio: Studio, picture: Image.Image) -> None:
    one, two = jobs(picture, WHOLE, 2)
    with pytest.raises(BadSettingError, match="strength"):
        studio.batch([one, replace(two, strength=3.0)])
