from __future__ import annotations

import platform
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image
from psutil import Process

from backend.device.measure import Meter, device_name, free_bytes, return_freed_ram, total_bytes
from backend.events import StageDone
from backend.job import Job, VaeOptions
from backend.models import BUILTIN
from backend.report import Cost, StageReport, Traffic
from backend.settings import Settings
from backend.studio import Studio
from benchmarks.meter import denoisings, pairs

CPU = torch.device("cpu")
MODES = ("whole", "streamed", "tiled")


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio(Settings(device="cpu"))


def peaks(studio: Studio, side: int = 96) -> dict[str, int]:
    """What the reports of a job say, and those of a decode in each mode."""
    job = Job(
        Image.new("RGB", (side, side)), "a lake", seed=1, width=side, height=side, num_inference_steps=9
    )
    reports = {e.report.stage: e.report for e in studio.img2img(job) if isinstance(e, StageDone)}
    latents = torch.zeros(1, 4, side // 4, side // 4)
    for mode in MODES:
        _, reports[mode] = studio.decode(latents, BUILTIN.name, VaeOptions(mode, 64, 16))
    found = {name: report.cost.peak_bytes for name, report in reports.items()}
    assert all(found.values())
    return found  # type: ignore[return-value]


def test_a_planted_allocation_is_seen_to_the_byte() -> None:
    with Meter(CPU) as meter:
        ballast = torch.ones(64 * 2**20 // 4)
        del ballast
    cost = meter.cost
    assert cost.memory_kind == "RAM" and cost.added_bytes == cost.peak_bytes == 64 * 2**20
    assert cost.seconds > 0 and cost.device_bytes == total_bytes(CPU) > free_bytes(CPU) > 0
    assert cost.peak_percent == pytest.approx(100 * 64 * 2**20 / total_bytes(CPU))


def test_a_stage_takes_the_same_memory_again_whatever_ran_before(studio: Studio) -> None:
    first = peaks(studio)
    kept = [torch.ones(2**22) for _ in range(4)]
    peaks(studio, 160)
    del kept
    assert peaks(studio) == pytest.approx(first, rel=0.01)


def test_work_beside_does_not_count(studio: Studio) -> None:
    alone, stop = peaks(studio), threading.Event()

    def beside() -> None:
        held: list[torch.Tensor] = []
        while not stop.is_set():
            held = [*held[-8:], torch.ones(2**20)]

    other = threading.Thread(target=beside)
    other.start()
    try:
        assert peaks(studio) == pytest.approx(alone, rel=0.01)
    finally:
        stop.set()
        other.join()


def test_a_stages_own_threads_allocate_nothing_that_is_missed(studio: Studio) -> None:
    """Its parallel loops run on threads that are not counted: with a single thread everything is."""
    threads = torch.get_num_threads()
    try:
        found = {}
        for count in (1, 4):
            studio.loader.queue.run(lambda count=count: torch.set_num_threads(count))  # type: ignore[misc]
            found[count] = peaks(studio)
    finally:
        studio.loader.queue.run(lambda: torch.set_num_threads(threads))
    assert all(found[4][name] >= 0.99 * bytes_ for name, bytes_ in found[1].items()), found


def test_a_denoising_is_counted_until_it_repeats_itself_and_has_the_peak_of_all_its_steps(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denoised(end_step: Callable[[Meter], None] | None) -> tuple[int | None, int]:
        calls: list[bool] = []
        original: Any = Meter.end_step

        def step(meter: Meter) -> None:
            (end_step or original)(meter)
            calls.append(meter._memory._peak.bytes is None)  # type: ignore[union-attr]

        with monkeypatch.context() as patch:
            patch.setattr(Meter, "end_step", step)
            job = Job(Image.new("RGB", (64, 64)), "a lake", seed=1, width=64, height=64)
            reports = [e.report for e in studio.img2img(job) if isinstance(e, StageDone)]
        return reports[1].cost.peak_bytes, sum(calls)

    peak, counted = denoised(None)
    all_steps = denoised(lambda _: None)
    # A block from before may be released at another moment and be taken for one of the same size from here.
    assert peak == pytest.approx(all_steps[0], rel=0.01) and counted < all_steps[1]


def test_the_cost_is_known_after_an_error_too() -> None:
    meter = Meter(CPU)
    with pytest.raises(ZeroDivisionError), meter:
        _ = 1 // 0
    assert meter.cost.seconds > 0


def test_unknown_stays_unknown() -> None:
    cost = Cost(1.0, "VRAM")
    assert cost.peak_percent is None and cost.added_bytes is None
    report = StageReport("decode", "remote", "You chose it.", "box:1", cost, Traffic(10, 20)).as_dict()
    assert report["cost"]["peak_percent"] is None and report["traffic"]["network_seconds"] is None
    with Meter(torch.device("meta")) as meter:
        torch.ones(3)
    assert meter.cost.peak_bytes is None and meter.cost.seconds > 0, "a device whose peak nobody keeps"


def test_derived_figures() -> None:
    cost = Cost(2.0, "VRAM", peak_bytes=3, baseline_bytes=1, device_bytes=12)
    assert cost.peak_percent == 25 and cost.added_bytes == 2
    assert Traffic(1, 1, server_seconds=0.5).network_seconds(2.0) == 1.5


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep no freed memory")
def test_what_threads_freed_goes_back_to_the_system() -> None:
    """They stay small pieces below one that is in use, so that glibc would keep them."""
    kept: list[bytearray] = []

    def work() -> None:
        pieces = [bytearray(50_000) for _ in range(1000)]
        kept.append(pieces[-1])

    before = Process().memory_info().rss
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    during = Process().memory_info().rss
    return_freed_ram()
    after = Process().memory_info().rss
    assert during - before > 40e6 > 3 * (after - before), (before, during, after)


def test_the_processor_has_a_human_name() -> None:
    assert "processor" in str(device_name(CPU))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_vram_counts_what_torch_allocated() -> None:
    device = torch.device("cuda", 0)
    with Meter(device) as meter:
        torch.ones(2**26, device=device)
    assert meter.cost.memory_kind == "VRAM" and meter.cost.added_bytes == 2**28


@pytest.mark.slow
def test_the_benchmark_of_the_meter_runs_and_its_peaks_repeat() -> None:
    name, work = next(denoisings())
    row = pairs(name, work, 0.0)
    assert row["pairs"] >= 5 and row["peak_bytes"] > 0
    assert row["peak_spread_percent"] <= 1
