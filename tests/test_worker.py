from __future__ import annotations

import gc
import subprocess
import sys
import threading
import traceback
import weakref
from pathlib import Path

import pytest

from backend.worker import Worker

ROOT = Path(__file__).parent.parent


class Bulky:
    """Something that can be looked after with a weak reference."""


def test_everything_runs_on_one_thread_whoever_asks() -> None:
    worker, seen = Worker("test"), []
    callers = [
        threading.Thread(target=lambda: seen.append(worker.run(threading.current_thread)), daemon=True)
        for _ in range(4)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(10)
    assert len(seen) == 4 and len(set(seen)) == 1
    assert seen[0] is not threading.current_thread() and seen[0].daemon


def test_an_error_comes_back_with_where_it_happened() -> None:
    def stumble() -> None:
        raise ValueError("over a stone")

    worker = Worker("test")
    with pytest.raises(ValueError, match="over a stone") as caught:
        worker.run(stumble)
    assert "stumble" in "".join(traceback.format_tb(caught.value.__traceback__))
    assert worker.run(lambda: 7) == 7, "it goes on with the next"


def test_it_keeps_neither_work_nor_result() -> None:
    worker = Worker("test")
    result = worker.run(Bulky)
    kept = weakref.ref(result)
    worker.run(int)  # so that the thread has surely left the piece before
    del result
    assert kept() is None

    def fail() -> None:
        local = Bulky()
        failed.append(weakref.ref(local))
        raise ValueError

    failed: list[weakref.ref[Bulky]] = []
    with pytest.raises(ValueError):
        worker.run(fail)
    worker.run(int)
    gc.collect()
    assert failed[0]() is None


def test_its_thread_ends_with_it() -> None:
    worker = Worker("test")
    thread = worker.run(threading.current_thread)
    del worker
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


LEAVING = """
from PIL import Image
from backend.job import Job, Step, VaeOptions
from backend.settings import Settings
from backend.studio import Studio

job = Job(Image.new("RGB", (64, 64)), "", num_inference_steps=100, strength=1.0, encode=VaeOptions("whole"))
run = Studio(Settings(device="cpu")).img2img(job)
for event in run:
    if isinstance(event, Step):
        break
print("leaving in the middle of it", flush=True)
"""


def test_a_process_that_ends_while_painting_ends_cleanly() -> None:
    """Broken off inside torch it would abort: "terminate called without an active exception"."""
    left = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LEAVING + "import sys; sys.kept = run"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "leaving in the middle of it" in left.stdout, left.stderr
    assert left.returncode == 0, left.stderr
