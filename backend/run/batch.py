"""Several jobs in a row. Where they decode elsewhere, picture n is decoded while picture n + 1 is denoised here."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from backend import units
from backend.device.interrupt import raise_if_stopped
from backend.errors import Cancelled, LatentRelayError
from backend.events import Failed, InBatch
from backend.job import ResolvedJob
from backend.message import Message, join
from backend.report import StageReport
from backend.request import StageRequest
from backend.run.context import ExecutionContext, Notify, waiting
from backend.run.img2img import Denoised, decode, encode_and_denoise, finish, log_failure
from backend.run.job_queue import JobQueue
from backend.run.overlap import pipelined
from backend.run.remote_stage import runs_elsewhere

BatchNotify = Callable[[InBatch], None]


def run_batch(
    jobs: Sequence[ResolvedJob],
    context: ExecutionContext,
    queue: JobQueue,
    stop: threading.Event,
    notify: BatchNotify,
) -> None:
    """Run `jobs`, in the `queue` as one. A picture that fails gives a Failed in place of its Result; only stopping
    ends all.

    Raises:
        LatentRelayError: Cancelled, or BusyError.
    """
    with queue.enter(stop, lambda ahead: notify(InBatch(0, waiting(ahead)))):
        _Batch(jobs, context, stop, notify).run()


class _Batch:
    """The two halves of each job, and the clock that tells how long they overlapped."""

    def __init__(
        self,
        jobs: Sequence[ResolvedJob],
        context: ExecutionContext,
        stop: threading.Event,
        notify: BatchNotify,
    ) -> None:
        self.jobs = jobs
        self.context = context
        self.stop = stop
        self.notify = notify
        self.clock = BusyClock()
        self.overlaps = len(jobs) > 1 and all(runs_elsewhere(_decode_of(job), context) for job in jobs)

    def run(self) -> None:
        if self.overlaps:
            finished: Iterator[None] = pipelined(self._denoised(), self._decode, self.stop)
        else:
            finished = map(self._decode, self._denoised())
        for _ in finished:
            raise_if_stopped(self.stop)

    def _denoised(self) -> Iterator[tuple[int, Denoised]]:
        for index, job in enumerate(self.jobs):
            done = None
            with self.clock.busy(), self._isolate_failure(index):
                done = encode_and_denoise(job, self.context, self.stop, self._notify_of(index))
            if done is not None:
                yield index, done

    def _decode(self, item: tuple[int, Denoised]) -> None:
        index, denoised = item
        job, notify = self.jobs[index], self._notify_of(index)
        with self._isolate_failure(index):
            begin = time.monotonic()
            pixels, report = decode(job, denoised, self.context, self.stop, notify)
            if self.overlaps:
                report = _with_overlap(report, self.clock.seconds_since(begin))
            finish(job, denoised, pixels, report, notify)

    def _notify_of(self, index: int) -> Notify:
        return lambda event: self.notify(InBatch(index, event))

    @contextmanager
    def _isolate_failure(self, index: int) -> Iterator[None]:
        """An error in here ends that picture, not the batch; stopping ends both."""
        try:
            yield
        except Cancelled:
            raise
        except LatentRelayError as error:
            log_failure(self.jobs[index], error)
            self.notify(InBatch(index, Failed(error)))


class BusyClock:
    """When this machine was at work on pictures of a batch, for a decode elsewhere to look back at."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._spans: deque[tuple[float, float]] = deque(maxlen=4)

    @contextmanager
    def busy(self) -> Iterator[None]:
        self._began = began = time.monotonic()
        try:
            yield
        finally:
            self._began = None
            self._spans.append((began, time.monotonic()))

    def seconds_since(self, begin: float) -> float:
        """Of the time from `begin` until now, how much there was work."""
        now, began = time.monotonic(), self._began
        spans = [*self._spans] if began is None else [*self._spans, (began, now)]
        return sum(max(0.0, end - max(begin, start)) for start, end in spans)


def _decode_of(job: ResolvedJob) -> StageRequest:
    return StageRequest("decode", job.spec, job.width, job.height, job.decode, run_id=job.run_id)


def _with_overlap(report: StageReport, seconds: float) -> StageReport:
    seconds = min(seconds, report.cost.seconds)
    sentence = Message("")
    if seconds:
        sentence = Message(
            "The next picture was being made here for {took} of it.", took=units.seconds(seconds)
        )
    return replace(report, reason=join(report.reason, sentence), overlapped_seconds=seconds)
