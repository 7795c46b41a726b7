"""What is served, under which limits, and the path from a request to a reply.

Three kinds of thread take part: the event loop only moves bytes; a small pool parses bodies and packs replies; and
one thread a device (`device/queue.py`, fed by `batching.py`) computes. So packing one picture overlaps with computing
the next.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backend import wire
from backend.dtypes import dtype_name
from backend.endpoint.batching import BatchableRequest, BatchingQueue, Done
from backend.endpoint.body import STALL_SECONDS
from backend.endpoint.compute import Computed, Served, compute_together
from backend.errors import LatentRelayError, TooLargeError, UnknownVAEError
from backend.report import Cost, Direction

if TYPE_CHECKING:
    import torch

    from backend.endpoint.metrics import Metrics

MEBI = 2**20
TOKEN_VARIABLE = "LATENT_RELAY_SERVE_TOKEN"
"""The environment variable with the token that clients must send."""


@dataclass(frozen=True)
class Limits:
    """What one request may ask for, and how many may be inside at once."""

    max_body_bytes: int = 256 * MEBI
    max_pixels: int = 2048 * 2048
    """Of one picture; the cap of the public endpoints."""
    max_batch: int = 16
    queue: int = 32
    """Requests inside per device, waiting or running."""
    queue_bytes: int = 512 * MEBI
    """Bytes of body that those may hold together."""
    per_client: int | None = None
    """Requests inside per client and device, which then may hold the same share of `queue_bytes`. None: half of
    `queue`, for public addresses only, because behind a proxy everybody has its private one. 0: as many as there are
    places."""
    batch_pixels: int = 0
    """Pixels up to which waiting requests of equal shape are computed together; 0 never does."""
    deadline: float = 300.0
    """Seconds from a request's first byte to its reply."""
    stall: float = STALL_SECONDS
    """Seconds without progress after which a request's body is given up on, and its place is free again."""

    @property
    def places_per_client(self) -> int:
        """Places that one client may have, 0 for all of them."""
        return max(1, self.queue // 2) if self.per_client is None else self.per_client


@dataclass(frozen=True)
class Reply:
    headers: Mapping[str, str]
    body: bytes
    stages: Mapping[str, float]
    """Seconds of parse, queue, compute and encode."""
    cost: Cost
    """Of the computing, with its peak memory."""


class Service:
    """The VAEs served and their queues, one a device. `served` may be a function, called anew at each look-up."""

    def __init__(
        self,
        served: Iterable[Served] | Callable[[], Iterable[Served]],
        limits: Limits | None = None,
        token: str | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.token = token
        self.metrics = metrics
        self._served = served if callable(served) else tuple(served)
        self._queues: dict[int, BatchingQueue] = {}
        self._guard = threading.Lock()
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="vae-wire")

    def all(self) -> tuple[Served, ...]:
        return tuple(self._served() if callable(self._served) else self._served)

    def queues(self) -> list[BatchingQueue]:
        """The queues that were used so far, one a device."""
        with self._guard:
            return list(self._queues.values())

    def find(self, name: str | None) -> Served:
        """The VAE of that name; with None the only one.

        Raises:
            UnknownVAEError: no such name, or None while several are served.
        """
        known = self.all()
        for served in known:
            if served.name == name or (name is None and len(known) == 1):
                return served
        names = ", ".join(served.name for served in known)
        if name is None:
            raise UnknownVAEError(
                "Several VAEs are served here.", "Post to /vae/NAME/decode; names: {names}.", names=names
            )
        raise UnknownVAEError(
            "No VAE called “{name}” is served here.", "Served: {names}.", name=name[:80], names=names
        )

    def queue_of(self, served: Served) -> BatchingQueue:
        """The queue of the device that `served` runs on."""
        with self._guard:
            key = id(served.queue)
            if key not in self._queues:
                limits = self.limits
                self._queues[key] = BatchingQueue(
                    served.queue,
                    limits.queue,
                    limits.queue_bytes,
                    limits.batch_pixels,
                    limits.places_per_client,
                )
            return self._queues[key]

    def describe(self, served: Served) -> dict[str, Any]:
        """A VAE as `GET /vae` lists it."""
        spec = served.spec
        return {
            "name": served.name,
            "title": served.title,
            "encode": f"/vae/{served.name}/encode",
            "decode": f"/vae/{served.name}/decode",
            "channels": spec.channels,
            "downscale": spec.downscale,
            "scaling_factor": spec.scaling_factor,
            "shift_factor": spec.shift_factor,
            "packed": spec.packed,
            "fixed_scale": served.fixed_scale,
            "ready": served.is_ready(),
            "limits": {
                "max_pixels": self.limits.max_pixels,
                "max_body_bytes": self.limits.max_body_bytes,
                "max_batch": self.limits.max_batch,
                "deadline_seconds": self.limits.deadline,
            },
        }

    def check(self, served: Served, direction: Direction, peek: wire.Peek) -> None:
        """Refuse by its parameters alone what would be too large.

        Raises:
            TooLargeError: over a limit.
        """
        limits = self.limits
        if peek.body_bytes is not None and peek.body_bytes > limits.max_body_bytes:
            raise TooLargeError(
                "The tensor has {count} bytes, more than the {limit} allowed.",
                count=peek.body_bytes,
                limit=limits.max_body_bytes,
            )
        if peek.batch is not None and peek.batch > limits.max_batch:
            raise TooLargeError(
                "The batch has {count} pictures, more than the {limit} allowed.",
                count=peek.batch,
                limit=limits.max_batch,
            )
        if peek.height is None or peek.width is None:
            return
        factor = served.spec.downscale if direction == "decode" else 1
        height, width = peek.height * factor, peek.width * factor
        if height * width > limits.max_pixels:
            raise TooLargeError(
                "A picture of {width}x{height} pixels is more than the {limit} pixels allowed.",
                "Send it in parts.",
                width=width,
                height=height,
                limit=limits.max_pixels,
            )

    def in_pool(self, work: Callable[[], Any]) -> Future[Any]:
        """Run a piece of parsing or packing away from the event loop and from the device's thread."""
        return self._pool.submit(work)

    def parse(
        self, served: Served, direction: Direction, received: wire.HttpRequest
    ) -> wire.DecodeRequest | wire.EncodeRequest:
        """A request's bytes as tensors, limits checked once more for parameters that came in the body.

        Raises:
            WireError: bytes or parameters that make no sense. TooLargeError: over a limit.
        """
        query, headers, body = received.query, received.headers, received.body
        if direction == "decode":
            decode = wire.parse_decode_request(query, headers, body)
            batch, _, height, width = decode.latents.shape
            self.check(served, direction, wire.Peek(batch, height, width))
            if decode.output in ("jpg", "png") and batch > 1:
                # Said before the work is done, not after.
                wire.refuse_batch(batch, decode.output)
            return decode
        encode = wire.parse_encode_request(
            query, headers, body, multiple=served.spec.downscale, max_pixels=self.limits.max_pixels
        )
        batch, _, height, width = encode.image.shape
        self.check(served, direction, wire.Peek(batch, height, width))
        return encode

    def submit(self, served: Served, request: wire.DecodeRequest | wire.EncodeRequest) -> Future[Done]:
        """Queue the computing part; gives latents in the scaling asked for, or an image in [-1, 1]."""
        if isinstance(request, wire.DecodeRequest):
            direction: Direction = "decode"
            item = request.latents
            pixels = item.shape[0] * item.shape[2] * item.shape[3] * served.spec.downscale**2
        else:
            direction, item = "encode", request.image
            pixels = item.shape[0] * item.shape[2] * item.shape[3]
        key = (served.name, direction, tuple(item.shape[1:]), str(item.dtype), request.scaling)

        def run(items: Sequence[torch.Tensor]) -> Sequence[Computed | LatentRelayError]:
            return compute_together(served, direction, items, request.scaling)

        return self.queue_of(served).submit(BatchableRequest(key, pixels, item, run))

    def pack(
        self, request: wire.DecodeRequest | wire.EncodeRequest, done: Done, parse_seconds: float
    ) -> Reply:
        """The reply's headers and body, with `Server-Timing` in milliseconds."""
        started = time.perf_counter()
        computed: Computed = done.value
        tensor, cost = computed.tensor, computed.cost
        if isinstance(request, wire.DecodeRequest):
            dtype = dtype_name(request.latents.dtype)
            headers, body = wire.pack_decode_reply(
                tensor,
                request.output,
                "float32" if dtype == "uint8" else dtype,
                base64_reply=request.base64_reply,
            )
        else:
            headers, body = wire.pack_tensor_reply(tensor, base64_reply=request.base64_reply)
        stages = {
            "parse": parse_seconds,
            "queue": done.queue_seconds,
            "compute": done.compute_seconds,
            "encode": time.perf_counter() - started,
        }
        headers["server-timing"] = wire.pack_timing(stages)
        headers["x-vae-mode"] = computed.mode
        headers["x-vae-dtype"] = wire.pack_computed(computed.dtype, computed.overflowed)
        if cost.peak_bytes is not None:
            headers["x-peak-memory"] = f"{cost.peak_bytes}; kind={cost.memory_kind}"
        if done.batch > 1:
            headers["x-batch"] = str(done.batch)
        return Reply(headers, body, stages, cost)

    def close(self, timeout: float | None = None) -> bool:
        """Take no more work and wait for what is inside; False if it took longer than `timeout` seconds."""
        results = [
            queue.close(timeout) for queue in self.queues()
        ]  # every one, not up to the first that is late
        emptied = all(results)
        self._pool.shutdown(wait=emptied)
        return emptied
