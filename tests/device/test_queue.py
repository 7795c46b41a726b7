from __future__ import annotations

import gc
import subprocess
import sys
import threading
import traceback
import weakref
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from backend.device.queue import DeviceQueue
from backend.errors import Cancelled
from tests.waiting import occupied

ROOT = Path(__file__).parents[2]


class Bulky:
    """Something that can be looked after with a weak reference."""


def test_first_come_first_served_on_one_thread_whoever_asks() -> None:
    queue, order, threads = DeviceQueue("test"), [], []
    waits = [threading.Event() for _ in range(4)]

    def ask(index: int) -> None:
        def work() -> None:
            order.append((index, threading.current_thread()))

        queue.run(work, on_wait=lambda _: waits[index].set())

    with occupied(queue):
        for index in range(4):
            threads.append(threading.Thread(target=ask, args=(index,)))
            threads[-1].start()
            assert waits[index].wait(10)
        assert queue.waiting == 5 and not order
    for thread in threads:
        thread.join(10)
    assert [index for index, _ in order] == [0, 1, 2, 3] and queue.waiting == 0
    (worker,) = {thread for _, thread in order}
    assert worker is not threading.current_thread() and worker.daemon


def test_whoever_waits_is_told_how_many_are_ahead() -> None:
    queue, seen, told = DeviceQueue("test"), [], threading.Event()

    def note(ahead: int) -> None:
        seen.append(ahead)
        told.set()

    with occupied(queue), occupied(queue, begun=False):
        thread = threading.Thread(target=lambda: queue.run(int, on_wait=note))
        thread.start()
        assert told.wait(10)
    thread.join(10)
    assert seen[0] == 2 and seen == sorted(seen, reverse=True) and len(set(seen)) == len(seen)


def test_giving_up_while_waiting_computes_nothing_and_holds_nobody_up() -> None:
    queue, stop, computed = DeviceQueue("test"), threading.Event(), []
    stop.set()
    with occupied(queue):
        with pytest.raises(Cancelled):
            queue.run(lambda: computed.append("run"), stop)
        assert queue.waiting == 1
        future = queue.submit(lambda: computed.append("submit"))
        assert future.cancel()
    assert queue.run(lambda: 5) == 5 and not computed and queue.waiting == 0
    with pytest.raises(CancelledError):
        future.result()


def test_an_error_comes_back_with_where_it_happened() -> None:
    def stumble() -> None:
        raise ValueError("over a stone")

    queue = DeviceQueue("test")
    with pytest.raises(ValueError, match="over a stone") as caught:
        queue.run(stumble)
    assert "stumble" in "".join(traceback.format_tb(caught.value.__traceback__))
    assert queue.run(lambda: 7) == 7 and queue.waiting == 0, "it goes on with the next"


def test_it_keeps_neither_work_nor_result() -> None:
    queue = DeviceQueue("test")
    result = queue.run(Bulky)
    kept = weakref.ref(result)
    queue.run(int)  # so that the thread has surely left the piece before
    del result
    assert kept() is None

    def fail() -> None:
        local = Bulky()
        failed.append(weakref.ref(local))
        raise ValueError

    failed: list[weakref.ref[Bulky]] = []
    with pytest.raises(ValueError):
        queue.run(fail)
    queue.run(int)
    gc.collect()
    assert failed[0]() is None


def test_its_thread_ends_with_it() -> None:
    queue = DeviceQueue("test")
    thread = queue.run(threading.current_thread)
    del queue
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


LEAVING = """
from PIL import Image
from backend.events import Step
from backend.job import Job, VaeOptions
from backend.settings import Settings
from backend.studio import Studio

job = Job(Image.new("RGB", (64, 64)), "", num_inference_steps=100, strength=1.0, encode=VaeOptions("whole"))
run = Studio(Settings(device="cpu")).img2img(job)
for event in run:
    if isinstance(event, Step):
        break
print("leaving in the middle of it", flush=True)
"""


def test_a_process_that_ends_while_denoising_ends_cleanly() -> None:
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
