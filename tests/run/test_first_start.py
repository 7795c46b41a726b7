"""A machine that could run more than is on it: nothing that does not need the missing weights waits for them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
import torch
from PIL import Image
from starlette.applications import Starlette

from backend.device import availability, loading
from backend.device.loading import Loader
from backend.errors import Cancelled, ModelUnavailableError
from backend.events import Downloading, Result
from backend.job import Job, VaeOptions
from backend.models import BUILTIN, SD_V1
from backend.run import first_start
from backend.run.model_downloads import OWNER
from backend.settings import Settings
from backend.studio import Studio
from backend.wire import pack_tensor
from tests.hubbing import Hub, builtin_as, hub_here
from tests.run.test_zero_gpu import Lender
from tests.serving import serve
from tests.waiting import wait_until

PAINTER, FILES = builtin_as("painter")
PATIENCE = 60.0
"""Seconds after which something that must not wait for a download is said to do so."""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """Has the painter, and gives no byte of its weights until it is told to."""
    hub = Hub({PAINTER.repository: dict(FILES)}, held={PAINTER.repository})
    with hub_here(hub, tmp_path):
        yield hub


@pytest.fixture
def studio(hub: Hub) -> Studio:
    """Started with `--model painter`."""
    return Studio(Settings(device="cpu", model="painter", local_models=(PAINTER,)))


def job(model: str = "builtin", **changes: Any) -> Job:
    return Job(
        Image.new("RGB", (64, 64), "teal"),
        "a lake",
        model=model,
        num_inference_steps=2,
        strength=0.5,
        seed=1,
        **{"encode": VaeOptions("whole"), "decode": VaeOptions("whole"), **changes},
    )


def in_time(work: Any) -> Any:
    """Its result, or a failure instead of a wait for the download."""
    pool = ThreadPoolExecutor(1)
    try:
        return pool.submit(work).result(PATIENCE)
    finally:
        pool.shutdown(wait=False)


def is_stuck(hub: Hub) -> bool:
    return any("/storage/" in asked for asked in hub.asked)


def test_the_page_opens_with_what_is_here_and_fetches_the_owner_s_model_beside(
    studio: Studio, hub: Hub
) -> None:
    spec, reason = studio.default_model()
    assert spec is BUILTIN and "Big painter is not on this computer yet" in str(reason)
    assert not hub.asked, "no network is asked before there is a page"
    studio.warm_up()
    studio.look_for_better(lambda: False)
    assert studio.downloads.offered is PAINTER and not studio.downloads.looking
    wait_until(lambda: is_stuck(hub))
    state = studio.downloads.state(PAINTER)
    assert state.status == "running" and state.asked_by == {OWNER}
    # The built-in model works meanwhile: its estimate, its job, its endpoint.
    assert in_time(lambda: studio.estimate(job())).peak_bytes is not None
    events = in_time(lambda: list(studio.img2img(job())))
    assert isinstance(events[-1], Result)
    hub.held.clear()
    wait_until(lambda: studio.downloads.state(PAINTER).status == "here")
    assert studio.default_model()[0] is PAINTER
    assert isinstance(list(studio.img2img(job("painter")))[-1], Result)


def test_jobs_that_wait_for_weights_take_no_place_from_others(studio: Studio, hub: Hub) -> None:
    """More of them than may be under way at once."""
    stops = [threading.Event() for _ in range(studio.job_queue.at_once + 1)]
    errors: list[Exception] = []

    def want(stop: threading.Event) -> None:
        try:
            list(studio.img2img(job("painter"), stop))
        except Cancelled as error:
            errors.append(error)

    waiting = [threading.Thread(target=want, args=(stop,), daemon=True) for stop in stops]
    for thread in waiting:
        thread.start()
    wait_until(lambda: is_stuck(hub))
    assert isinstance(in_time(lambda: list(studio.img2img(job())))[-1], Result)
    assert isinstance(in_time(lambda: list(studio.batch([job()])))[-1].event, Result)
    for stop in stops:
        stop.set()
    for thread in waiting:
        thread.join(PATIENCE)
    assert len(errors) == len(stops)


def test_a_job_follows_the_download_of_all_it_needs(studio: Studio, hub: Hub) -> None:
    hub.held.clear()
    hub.speed = 20_000_000
    events = list(studio.img2img(job("painter")))
    told = [event for event in events if isinstance(event, Downloading)]
    assert told[-1].done == told[-1].total > 22_000_000, "VAE and denoiser together"
    assert isinstance(events[-1], Result)


def test_the_endpoint_says_come_back_and_waits_for_no_download(studio: Studio, hub: Hub) -> None:
    body = pack_tensor(torch.zeros(1, 4, 8, 8))
    query = {"shape": ["1", "4", "8", "8"], "dtype": "float32"}
    with serve(Starlette(routes=studio.routes())) as url:

        def decode(model: str) -> requests.Response:
            return requests.post(f"{url}/vae/{model}/decode", params=query, data=body, timeout=PATIENCE)

        reply = decode("painter")
        assert reply.status_code == 503 and int(reply.headers["retry-after"]) > 0
        assert "being downloaded" in reply.json()["error"]
        assert decode("builtin").status_code == 200
        hub.held.clear()
        wait_until(lambda: decode("painter").status_code == 200)


def test_the_endpoint_tells_why_the_last_download_failed(studio: Studio, hub: Hub) -> None:
    hub.refuse_files = (403, {"x-error-code": "GatedRepo"})

    def refusal() -> Exception:
        with pytest.raises(Exception) as caught:
            studio.executor.vae(PAINTER)
        return caught.value

    wait_until(lambda: isinstance(refusal(), ModelUnavailableError))
    wait_until(lambda: "licence" in str(refusal()))


# -- who asked for it ------------------------------------------------------------------------------------------


def test_it_ends_when_nobody_wants_it_any_more(studio: Studio, hub: Hub) -> None:
    downloads = studio.downloads
    downloads.start(PAINTER, "ann")
    downloads.start(PAINTER, "bob")
    wait_until(lambda: is_stuck(hub))
    downloads.stop(PAINTER, "ann")
    assert downloads.state(PAINTER).asked_by == {"bob"}
    downloads.stop(PAINTER, "bob")
    assert downloads.state(PAINTER).status == "absent"
    wait_until(lambda: not studio.loader.downloads._running)


def test_it_goes_on_when_who_asked_has_closed_the_page_and_anybody_may_stop_it(
    studio: Studio, hub: Hub
) -> None:
    downloads = studio.downloads
    downloads.start(PAINTER, "ann")
    wait_until(lambda: is_stuck(hub))
    downloads.leave("ann")
    assert downloads.state(PAINTER).status == "running" and not downloads.state(PAINTER).asked_by
    downloads.stop(PAINTER, "bob")
    assert downloads.state(PAINTER).status == "absent"


def test_a_failure_is_told_until_the_next_try(studio: Studio, hub: Hub) -> None:
    downloads = studio.downloads
    hub.refuse_files = (403, {"x-error-code": "GatedRepo"})
    downloads.start(PAINTER, "ann")
    wait_until(lambda: downloads.state(PAINTER).status == "failed")
    assert "accept its licence" in str(downloads.state(PAINTER).failure)
    hub.refuse_files = None
    downloads.start(PAINTER, "ann")
    assert downloads.state(PAINTER).status == "running" and downloads.state(PAINTER).failure is None


def test_what_is_known_of_the_size_and_the_speed(studio: Studio, hub: Hub) -> None:
    downloads = studio.downloads
    absent = downloads.state(PAINTER)
    assert (absent.total, absent.done, absent.speed, absent.seconds_left) == (None, None, None, None)
    sizes = downloads.measure(PAINTER)
    assert sizes is not None and downloads.state(PAINTER).total == sum(sizes.values())
    assert downloads.state(PAINTER).seconds_left is None, "no speed was seen yet"
    hub.held.clear()
    hub.speed = 3_000_000
    downloads.start(PAINTER, "ann")
    wait_until(lambda: (downloads.state(PAINTER).done or 0) > 2_000_000)
    downloads.stop(PAINTER, "ann")
    stopped = downloads.state(PAINTER)
    assert stopped.status == "absent" and stopped.done is not None and stopped.total is not None
    assert stopped.done < stopped.total and stopped.seconds_left, (
        "what is here, and how long the rest would take"
    )


# -- what is offered -------------------------------------------------------------------------------------------


def test_the_hub_is_asked_again_until_it_answers(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pretended card that the model fits."""
    monkeypatch.setattr(availability, "_cuda_usable", lambda _: True)
    monkeypatch.setattr(first_start, "_fits", lambda spec, sizes, loader: sum(sizes.values()) == 3)
    studio = Studio(Settings(device="auto"))
    assert studio.default_model()[0] is BUILTIN
    hub.refuse = (500, {})
    asked: list[int] = []

    def retry() -> bool:
        asked.append(1)
        hub.refuse = None
        hub.files[SD_V1.repository] = {"unet/diffusion_pytorch_model.fp16.safetensors": b"12"}
        hub.files[str(SD_V1.vae_repository)] = {"diffusion_pytorch_model.safetensors": b"3"}
        return True

    studio.look_for_better(retry)
    assert asked and studio.downloads.offered is SD_V1
    assert studio.downloads.state(SD_V1).status == "absent", "offered, not begun"


def test_nothing_is_offered_without_a_card(hub: Hub) -> None:
    studio = Studio(Settings(device="cpu"))
    studio.look_for_better(lambda: False)
    assert studio.downloads.offered is None and not hub.asked


@pytest.mark.parametrize(
    ("device", "free", "low_memory", "fits"),
    [
        ("cuda", 4.0e9, "none", True),
        ("cuda", 2.4e9, "none", False),  # of which loading takes 85 % at most
        ("cuda", 2.4e9, "model", True),
        ("cpu", 64e9, "none", False),
    ],
)
def test_a_model_is_offered_where_it_would_be_loaded_as_the_owner_wants(
    device: str, free: float, low_memory: str, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the rule that loading itself goes by."""
    monkeypatch.setattr(loading, "free_bytes", lambda _: free)
    monkeypatch.setattr(loading, "free_ram", lambda: 64e9)
    loader = Loader(Settings(device="cpu", low_memory=low_memory))
    monkeypatch.setattr(loader, "_device", torch.device(device))
    sizes = {"unet": 1_719_125_000, "text_encoder": 246_144_000, "vae": 334_643_000}
    assert first_start._fits(SD_V1, sizes, loader) == fits


def test_a_space_s_model_is_there_before_the_page(studio: Studio, hub: Hub) -> None:
    hub.held.clear()
    studio.preload()
    assert studio.default_model()[0] is PAINTER and studio.loader.has_vae(PAINTER)


def test_a_model_whose_files_were_removed_after_loading_is_still_here(
    studio: Studio, hub: Hub, tmp_path: Path
) -> None:
    """As `spaces` does on ZeroGPU."""
    hub.held.clear()
    studio.preload()
    studio.loader._complete.clear()
    (tmp_path / "hub" / "models--someone--painter").rename(tmp_path / "gone")
    assert studio.downloads.state(PAINTER).status == "here"
    other = replace(PAINTER, name="other")
    assert studio.loader.missing(other, ["denoiser"])


def test_on_zero_gpu_the_card_is_asked_for_once_the_weights_are_here(hub: Hub) -> None:
    hub.held.clear()
    hub.speed = 20_000_000
    lender = Lender()
    studio = Studio(Settings(device="cpu", local_models=(PAINTER,)), lender.GPU)
    downloading = 0
    for event in studio.img2img(job("painter")):
        if isinstance(event, Downloading):
            downloading += 1
            assert lender.calls == []
    assert downloading and len(lender.calls) == 1 and isinstance(event, Result)
