"""The main job on the built-in model: events, modes, seeds, cancelling, and what survives a failure."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionImg2ImgPipeline
from PIL import Image

from backend import images
from backend.device.loading import Loader
from backend.device.measure import SAFE_SHARE
from backend.device.queue import DeviceQueue
from backend.errors import BadSettingError, Cancelled, LatentRelayError, OutOfMemoryError, RemoteError
from backend.events import Event, Result, StageDone, StageStarted, Step, Waiting
from backend.job import Job, VaeOptions, vae_modes
from backend.models import BUILTIN
from backend.quality import psnr
from backend.remote.vae import RemoteVae
from backend.report import avoided_bytes
from backend.run import stage
from backend.run.remote_stage import check_remote
from backend.settings import EndpointPair, Settings
from backend.studio import Studio
from backend.vae.streamed import Streamed
from backend.vae.tiled import Tiled
from backend.vae.whole import Whole
from tests.serving import scripted
from tests.waiting import occupied

WHOLE = VaeOptions("whole")


def job(picture: Image.Image, **changes: Any) -> Job:
    """A quick one: three of six steps at 96 by 64."""
    base = Job(
        picture,
        "a lake at sunset",
        strength=0.5,
        num_inference_steps=6,
        seed=3,
        width=96,
        height=64,
        encode=WHOLE,
        decode=WHOLE,
    )
    return replace(base, **changes)


def finish(studio: Studio, asked: Job) -> Result:
    *_, last = studio.img2img(asked)
    assert isinstance(last, Result)
    return last


@pytest.fixture(scope="module")
def whole(studio: Studio, picture: Image.Image) -> Result:
    """The quick job with both stages whole, computed once; others are compared with it."""
    return finish(studio, job(picture))


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def test_events_come_in_order(studio: Studio, picture: Image.Image) -> None:
    events = list(studio.img2img(job(picture)))
    stages = [event.stage for event in events if isinstance(event, StageStarted)]
    done = [event.report.stage for event in events if isinstance(event, StageDone)]
    steps = [(event.step, event.steps) for event in events if isinstance(event, Step)]
    assert stages == done == ["encode", "denoise", "decode"]
    assert steps == [(1, 3), (2, 3), (3, 3)]
    assert isinstance(events[-1], Result) and events[-1].image.size == (96, 64)
    first = next(event for event in events if isinstance(event, Step))
    assert first.preview is not None and first.seconds_left is not None and first.seconds_left > 0


def test_reports_say_what_ran_why_where_and_what_it_cost(studio: Studio, picture: Image.Image) -> None:
    encode, denoise, decode = finish(studio, job(picture, decode=VaeOptions("auto"))).reports
    assert (encode.mode, encode.requested_mode) == ("whole", "whole")
    assert str(encode.reason) == "You chose it."
    assert decode.mode == "whole" and decode.requested_mode == "auto" and "fits" in str(decode.reason)
    assert denoise.steps == 3 and denoise.traffic is None
    for report in (encode, denoise, decode):
        assert report.cost.seconds > 0 and report.cost.peak_bytes and report.cost.memory_kind == "RAM"
        assert "processor" in str(report.where)


def test_whole_equals_a_plain_diffusers_script(whole: Result, picture: Image.Image) -> None:
    """The same seed and the same latents give the same bits, stage by stage."""
    vae = AutoencoderKL.from_pretrained(BUILTIN.repository, subfolder="vae").eval()
    pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(BUILTIN.repository, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    with torch.no_grad():
        latents = vae.encode(images.to_tensor(picture)).latent_dist.mode() * vae.config.scaling_factor
        plain = pipeline(
            "a lake at sunset",
            image=latents,
            strength=0.5,
            num_inference_steps=6,
            guidance_scale=BUILTIN.guidance_scale,
            generator=torch.Generator().manual_seed(3),
        ).images[0]
    assert whole.image.tobytes() == plain.tobytes()


def test_the_same_job_gives_the_same_bits_and_another_seed_others(
    studio: Studio, picture: Image.Image, whole: Result
) -> None:
    again = finish(studio, job(picture))
    assert torch.equal(whole.latents, again.latents)
    assert whole.image.tobytes() == again.image.tobytes()
    assert not torch.equal(whole.latents, finish(studio, job(picture, seed=4)).latents)
    assert whole.recipe["seed"] == 3


def test_strength_runs_from_nothing_to_everything(
    studio: Studio, picture: Image.Image, whole: Result
) -> None:
    untouched = finish(studio, job(picture, strength=0.0))
    assert untouched.reports[1].mode == "none" and untouched.reports[1].steps == 0
    encoded, _ = studio.encode(picture, "builtin", WHOLE)
    assert torch.equal(untouched.latents, encoded), "strength 0 is the round trip"
    results = [
        finish(studio, job(picture, strength=0.2)),
        whole,
        finish(studio, job(picture, strength=1.0)),
    ]
    distance = [float((result.latents - encoded).square().mean()) for result in results]
    assert distance[0] < distance[1] < distance[2]


@pytest.mark.parametrize("scheduler", ["DPM++ 2M", "Euler", "Euler a", "LMS", "PNDM", "UniPC"])
def test_every_scheduler_runs_and_does_not_feel_the_run_before(
    studio: Studio, picture: Image.Image, scheduler: str
) -> None:
    asked = job(picture, scheduler=scheduler)
    assert torch.equal(finish(studio, asked).latents, finish(studio, asked).latents)


@pytest.mark.parametrize("scheduler", ["default", "PNDM", "DPM++ 2M"])
def test_steps_are_counted_as_the_scheduler_makes_them(
    studio: Studio, picture: Image.Image, scheduler: str
) -> None:
    """PNDM takes more steps than were asked for."""
    events = list(studio.img2img(job(picture, scheduler=scheduler)))
    steps = [event for event in events if isinstance(event, Step)]
    assert [step.step for step in steps] == list(range(1, steps[0].steps + 1))
    assert {step.steps for step in steps} == {len(steps)} and steps[-1].seconds_left == 0
    (report,) = [e.report for e in events if isinstance(e, StageDone) and e.report.stage == "denoise"]
    assert report.steps == len(steps) == studio.resolve(job(picture, scheduler=scheduler)).steps_to_run, (
        "as the estimate has it"
    )


def test_a_scheduler_does_not_outlast_its_run(studio: Studio, picture: Image.Image, whole: Result) -> None:
    assert not torch.equal(finish(studio, job(picture, scheduler="Euler a")).latents, whole.latents)
    assert torch.equal(finish(studio, job(picture)).latents, whole.latents)


@pytest.mark.parametrize("decode", vae_modes(BUILTIN))
@pytest.mark.parametrize("encode", vae_modes(BUILTIN))
def test_every_pair_of_modes(
    studio: Studio, picture: Image.Image, whole: Result, encode: str, decode: str
) -> None:
    """Remote goes to this app's own routes over real HTTP."""
    tiles = {"tile_size": 64, "tile_overlap": 16}
    result = finish(
        studio, job(picture, encode=VaeOptions(encode, **tiles), decode=VaeOptions(decode, **tiles))
    )
    first, _, last = result.reports
    for report, asked in ((first, encode), (last, decode)):
        assert report.requested_mode == asked
        assert report.mode == ("whole" if asked == "auto" else asked)
        assert (report.traffic is not None) == (asked == "remote")
    if {encode, decode} <= {"auto", "whole", "remote"}:
        # The same VAE on the other side of the wire, so the same picture but for a rounding step.
        assert psnr(result.image, whole.image) > 50
    else:
        assert psnr(result.image, whole.image) > 15


def test_a_remote_report_says_what_went_over_the_wire(studio: Studio, picture: Image.Image) -> None:
    encode, _, decode = finish(
        studio, job(picture, encode=VaeOptions("remote"), decode=VaeOptions("remote"))
    ).reports
    assert encode.traffic is not None and decode.traffic is not None
    assert decode.traffic.bytes_sent == 4 * 16 * 24 * 4, "float32 latents"
    assert decode.traffic.bytes_received == 96 * 64 * 3, "an 8-bit picture"
    for report in (encode, decode):
        assert str(report.where).startswith("127.0.0.1:") and report.traffic is not None
        assert report.traffic.server_seconds is not None
        network = report.traffic.network_seconds(report.cost.seconds)
        assert network is not None and 0 <= network <= report.cost.seconds


def test_with_both_ends_elsewhere_the_vae_is_never_loaded_and_the_reports_say_what_that_saves(
    studio: Studio, picture: Image.Image
) -> None:
    base = f"{studio.self_url}/vae/builtin"
    near = Studio(
        Settings(device="cpu", endpoints={"builtin": EndpointPair(f"{base}/encode", f"{base}/decode")})
    )
    asked = job(picture, encode=VaeOptions("remote"), decode=VaeOptions("remote"))
    reports = finish(near, asked).reports
    weights = sum(w.numel() * w.element_size() for w in studio.loader.vae(BUILTIN).parameters())
    assert not near.loader.has_vae(BUILTIN) and avoided_bytes(reports) == weights
    assert reports[1].avoided_bytes is None, "painting spares nothing"
    mixed = finish(near, job(picture, encode=VaeOptions("remote"))).reports
    assert avoided_bytes(mixed) is None
    assert avoided_bytes(finish(near, asked).reports) is None, "now it is there"


def test_a_remote_that_is_gone_leaves_the_latents(studio: Studio, picture: Image.Image) -> None:
    with socket.socket() as unused:  # bound, but never listening
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        lonely = Studio(
            Settings(device="cpu", endpoints={"builtin": EndpointPair(decode=url)}, remote_timeout=2.0)
        )
        kept = []
        with pytest.raises(RemoteError, match="Nothing answers"):
            for event in lonely.img2img(job(picture, decode=VaeOptions("remote"))):
                assert not isinstance(event, Step), "found out before the painting, not after"
                if isinstance(event, StageDone) and event.latents is not None:
                    kept.append(event.latents)
    assert studio.decode(kept[-1], "builtin", WHOLE)[0].size == (96, 64)


def test_an_endpoint_that_breaks_after_denoising_leaves_its_latents(
    studio: Studio, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: RemoteVae, latents: torch.Tensor) -> torch.Tensor:
        raise RemoteError("The endpoint broke.")

    monkeypatch.setattr(RemoteVae, "decode", broken)
    kept = []
    with pytest.raises(RemoteError, match="broke"):
        for event in studio.img2img(job(picture, decode=VaeOptions("remote"))):
            if isinstance(event, StageDone) and event.latents is not None:
                kept.append(event.latents)
    assert len(kept) == 2 and studio.decode(kept[-1], "builtin", WHOLE)[0].size == (96, 64)


def test_an_endpoint_of_another_model_is_found_out_before_denoising(
    studio: Studio, picture: Image.Image
) -> None:
    """SD v1's latents sent to the built-in model's VAE would give a picture, and a wrong one."""
    wrong = f"{studio.self_url}/vae/builtin/decode"
    other = Studio(Settings(device="cpu", endpoints={"other": EndpointPair(decode=wrong)}))
    spec = replace(BUILTIN, name="other", latents=replace(BUILTIN.latents, scaling_factor=0.18215))
    found = check_remote(spec, "decode", other.context)
    assert found is not None and found.status == "broken" and "scaling_factor" in str(found.message)


def test_any_picture_and_size_will_do(studio: Studio) -> None:
    odd = Image.new("RGBA", (77, 131), (20, 90, 200, 128))
    result = finish(studio, Job(odd, "", model="builtin", strength=0.2, num_inference_steps=5, seed=1))
    width, height = result.image.size
    assert (
        width % BUILTIN.size_multiple == height % BUILTIN.size_multiple == 0
        and abs(width * height - 256**2) < 0.1 * 256**2
    )


def test_bad_settings_are_refused_before_anything_runs(studio: Studio, picture: Image.Image) -> None:
    with pytest.raises(BadSettingError, match="strength"):
        studio.img2img(job(picture, strength=2.0))


# -- cancelling ------------------------------------------------------------------------------------------------


def test_stopping_ends_the_run_within_a_step(studio: Studio, picture: Image.Image) -> None:
    stop = threading.Event()
    events: list[Event] = []
    with pytest.raises(Cancelled):
        for event in studio.img2img(job(picture, num_inference_steps=100, strength=1.0), stop):
            events.append(event)
            if isinstance(event, Step) and event.step == 2:
                stop.set()
    steps = [event for event in events if isinstance(event, Step)]
    assert len(steps) <= 3, "at most the step that was under way"
    assert any(isinstance(event, StageDone) for event in events), "the encoded latents are kept"
    assert studio.loader.queue.waiting == 0


def test_stopping_works_inside_a_step(studio: Studio, picture: Image.Image) -> None:
    """The network itself gives up: stop is set from within its own forward pass."""
    stop = threading.Event()
    unet = studio.loader.denoiser(BUILTIN).unet
    reached_the_end = []
    hooks = [
        unet.mid_block.register_forward_hook(lambda *_: stop.set()),
        unet.conv_out.register_forward_hook(lambda *_: reached_the_end.append(1)),
    ]
    try:
        with pytest.raises(Cancelled):
            list(studio.img2img(job(picture), stop))
    finally:
        for hook in hooks:
            hook.remove()
    assert not reached_the_end


def test_stopping_works_inside_a_streamed_stage(studio: Studio, picture: Image.Image) -> None:
    """The streamed mode calls no module's forward, so it looks at the button itself, between its layers."""
    stop = threading.Event()
    notified = []

    def press(event: Event) -> None:
        notified.append(event)
        if isinstance(event, StageStarted):
            stop.set()

    with pytest.raises(Cancelled):
        studio.encode(picture, "builtin", VaeOptions("streamed"), stop, press)
    assert notified


def test_the_streamed_mode_plans_for_the_memory_that_is_free(
    studio: Studio, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = picture.resize((384, 256))
    roomy, _ = studio.encode(large, "builtin", VaeOptions("streamed"))
    module = studio.loader.vae(BUILTIN)
    usual = Streamed(module, BUILTIN.latents).plan("encode", 1, 256, 384).peak_bytes
    least = Streamed(module, BUILTIN.latents, max_memory=1).plan("encode", 1, 256, 384).peak_bytes
    assert least < 0.9 * usual
    monkeypatch.setattr(stage, "free_bytes", lambda _: least / SAFE_SHARE + 1024)
    lean, _ = studio.encode(large, "builtin", VaeOptions("streamed"))
    assert torch.allclose(lean, roomy, atol=1e-4)
    monkeypatch.setattr(stage, "free_bytes", lambda _: least / 2)
    with pytest.raises(OutOfMemoryError, match="at least"):
        studio.encode(large, "builtin", VaeOptions("streamed"))


def test_closing_the_generator_frees_the_device(studio: Studio, picture: Image.Image) -> None:
    run = studio.img2img(job(picture, num_inference_steps=100, strength=1.0))
    for event in run:
        if isinstance(event, Step):
            break
    run.close()  # type: ignore[attr-defined]
    wait_for(lambda: studio.loader.queue.waiting == 0)
    assert finish(studio, job(picture)).image.size == (96, 64)


def test_hooks_are_gone_after_a_run(studio: Studio, picture: Image.Image) -> None:
    finish(studio, job(picture))
    unet, vae = studio.loader.denoiser(BUILTIN).unet, studio.loader.vae(BUILTIN)
    assert not any(module._forward_pre_hooks for model in (unet, vae) for module in model.modules())


def test_a_second_person_is_told_to_wait(studio: Studio, picture: Image.Image) -> None:
    events: list[Event] = []
    with occupied(studio.loader.queue):
        run = studio.img2img(job(picture))
        for event in run:
            events.append(event)
            if isinstance(event, Waiting) and "Waiting for 1 other" in str(event.message):
                break
    events += run
    assert isinstance(events[-1], Result)


# -- threads ---------------------------------------------------------------------------------------------------


def test_all_local_computing_is_done_by_one_thread(studio: Studio, picture: Image.Image) -> None:
    """Of jobs, of the encode tab and of this app's own endpoint: the helpers of another would be built anew."""
    seen: list[tuple[str, threading.Thread]] = []

    def note(name: str) -> Callable[..., None]:
        return lambda *_: seen.append((name, threading.current_thread()))

    unet, vae = studio.loader.denoiser(BUILTIN).unet, studio.loader.vae(BUILTIN)
    hooks = [
        unet.register_forward_pre_hook(note("unet")),
        vae.encoder.register_forward_pre_hook(note("encoder")),
        vae.decoder.register_forward_pre_hook(note("decoder")),
    ]
    try:
        finish(studio, job(picture))
        finish(studio, job(picture, encode=VaeOptions("remote"), decode=VaeOptions("remote")))
        studio.encode(picture, "builtin", WHOLE)
    finally:
        for hook in hooks:
            hook.remove()
    names = [name for name, _ in seen]
    assert (names.count("encoder"), names.count("decoder")) == (3, 2) and names.count("unet") == 6
    assert len({thread for _, thread in seen}) == 1


def test_a_job_that_waits_for_an_endpoint_holds_nobody_up(picture: Image.Image) -> None:
    answering = threading.Event()

    def hang(handler: Any) -> None:
        answering.wait(60)
        handler.send_error(503)

    with scripted(hang) as (script, url):
        two = Studio(
            Settings(device="cpu", endpoints={"builtin": EndpointPair(encode=url)}, remote_timeout=30)
        )
        stop = threading.Event()
        first = two.img2img(job(picture, encode=VaeOptions("remote")), stop)
        assert isinstance(next(first), StageStarted)
        wait_for(lambda: bool(script.requests))
        assert finish(two, job(picture)).image.size == (96, 64), "the second job overtakes the first"
        stop.set()
        with pytest.raises(Cancelled):
            list(first)
        answering.set()


def test_a_job_that_nobody_reads_holds_nobody_up(studio: Studio, picture: Image.Image) -> None:
    unread = studio.img2img(job(picture))
    next(unread)
    assert finish(studio, job(picture)).image.size == (96, 64)
    assert isinstance(list(unread)[-1], Result), "and its events have been kept"


# -- failures --------------------------------------------------------------------------------------------------


def breaking(monkeypatch: pytest.MonkeyPatch, kind: type, error: Callable[[], Exception]) -> None:
    def fail(*_: object) -> None:
        raise error()

    monkeypatch.setattr(kind, "_decode", fail)


def test_a_decode_that_fails_leaves_the_latents(
    studio: Studio, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaking(monkeypatch, Whole, lambda: torch.OutOfMemoryError("no"))
    kept: list[torch.Tensor] = []
    with pytest.raises(OutOfMemoryError, match="not enough memory"):
        for event in studio.img2img(job(picture)):
            if isinstance(event, StageDone) and event.latents is not None:
                kept.append(event.latents)
    assert len(kept) == 2, "encoded and denoised"
    monkeypatch.undo()
    rescued, report = studio.decode(kept[-1], "builtin", VaeOptions("tiled", tile_size=64, tile_overlap=16))
    assert rescued.size == (96, 64) and report.mode == "tiled"


def test_auto_falls_back_to_its_next_candidate_and_says_so(
    studio: Studio, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    def only_whole_fails(self: Whole, z: torch.Tensor) -> torch.Tensor:
        if not isinstance(self, Tiled) or self.module.use_tiling is False:
            raise torch.OutOfMemoryError("no")
        return self.module.decode(z, return_dict=False)[0]

    monkeypatch.setattr(Whole, "_decode", only_whole_fails)
    report = finish(studio, job(picture, decode=VaeOptions("auto", 64, 16))).reports[2]
    assert (report.mode, report.requested_mode) == ("streamed", "auto")
    assert "“whole” was tried first and ran out of memory" in str(report.reason)


def test_a_chosen_mode_never_falls_back(
    studio: Studio, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaking(monkeypatch, Whole, MemoryError)
    with pytest.raises(OutOfMemoryError):
        finish(studio, job(picture))


def test_a_model_that_cannot_be_had_says_so(picture: Image.Image) -> None:
    lonely = Studio(Settings(device="cpu"))
    with pytest.raises(LatentRelayError, match="hub cannot be reached"):
        finish(lonely, job(picture, model="sd-v1"))


def test_loader_holds_one_of_each() -> None:
    loader = Loader(Settings(device="cpu"))
    assert not loader.has_vae(BUILTIN)
    assert loader.vae(BUILTIN) is loader.vae(BUILTIN) and loader.has_vae(BUILTIN)
    assert not hasattr(loader.denoiser(BUILTIN).vae, "parameters"), "the pipeline never holds a VAE"
    assert isinstance(loader.queue, DeviceQueue)


def test_freed_memory_is_given_back_now_and_then(
    studio: Studio, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_back: list[bool] = []
    monkeypatch.setattr("backend.run.executor.return_freed_ram", lambda: given_back.append(True))
    for seconds in (0.0, 3600.0):
        monkeypatch.setattr("backend.run.executor.RETURN_SECONDS", seconds)
        finish(studio, job(picture))
        wait_for(lambda: given_back == [True])
