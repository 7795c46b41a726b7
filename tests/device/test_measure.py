from __future__ import annotations

import time

import pytest
import torch

from backend.device.measure import Meter, device_name, free_bytes, total_bytes
from backend.report import Cost, StageReport, Traffic

CPU = torch.device("cpu")


@pytest.mark.serial
def test_a_planted_allocation_is_seen() -> None:
    with Meter(CPU) as meter:
        ballast = torch.ones(64 * 2**20 // 4)
        time.sleep(0.05)  # several looks
        del ballast
    assert meter.cost.memory_kind == "RAM"
    assert meter.cost.added_bytes is not None and 48 * 2**20 < meter.cost.added_bytes < 256 * 2**20
    assert meter.cost.seconds >= 0.05
    assert meter.cost.device_bytes == total_bytes(CPU) > free_bytes(CPU) > 0


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


def test_derived_figures() -> None:
    cost = Cost(2.0, "VRAM", peak_bytes=3, baseline_bytes=1, device_bytes=12)
    assert cost.peak_percent == 25 and cost.added_bytes == 2
    assert Traffic(1, 1, server_seconds=0.5).network_seconds(2.0) == 1.5


def test_the_processor_has_a_human_name() -> None:
    assert "processor" in str(device_name(CPU))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_vram_counts_what_torch_allocated() -> None:
    device = torch.device("cuda", 0)
    with Meter(device) as meter:
        torch.ones(2**26, device=device)
    assert meter.cost.memory_kind == "VRAM" and meter.cost.added_bytes == 2**28
