"""What is served, under which limits, and the path from a request to a reply.

Three kinds of thread take part: the event loop only moves bytes; a small pool parses bodies and packs replies; and
one thread a device (`turns.py`, fed by `lane.py`) computes. So packing one picture overlaps with computing the next.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from backend import wire
from backend.device.queue import DeviceQueue
from backend.endpoint.batching import Done, Lane, Task
from backend.errors import (
    LatentRelayError,
    NonFiniteError,
    OutOfMemoryError,
    TooLargeError,
    UnknownVAEError,
)
from backend.models import LatentSpec
from backend.report import Cost

if TYPE_CHECKING:
    import torch

    from backend.endpoint.metrics import Metrics
    from backend.vae.base import VAE

log = logging.getLogger(__name__)

Action = Literal["encode", "decode"]

MEBI = 2**20


@dataclass(frozen=True)
class Served:
    """One VAE on offer. `load` may take long and should keep what it loaded; it is called while holding `turns`."""

    name: str
    spec: LatentSpec
    load: Callable[[], VAE]
    queue: DeviceQueue = field(default_factory=DeviceQueue)
    """One a device, shared with whoever else computes there. VAEs of one `turns` share one queue."""
    load_low_memory: Callable[[], VAE] | None = None
    """A mode of the same VAE that needs less memory, for a second try."""
    is_ready: Callable[[], bool] = lambda: True
    title: str = ""
    fixed_scale: bool = False
    """Whether the VAE takes the denoiser's latents as they are (AutoencoderTiny), whatever factors are sent."""


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
    batch_pixels: int = 0
    """Pixels up to which waiting requests of equal shape are computed together; 0 never does."""
    deadline: float = 300.0
    """Seconds from a request's first byte to its reply."""


@dataclass(frozen=True)
class Reply:
    headers: Mapping[str, str]
    body: bytes
    stages: Mapping[str, float]
    """Seconds of parse, queue, compute and encode."""
    cost: Cost
    """Of the computing, with its peak memory."""


class Service:
    """The registry and its lanes. `served` may be a function, asked anew at each look-up."""

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
        self._lanes: dict[int, Lane] = {}
        self._guard = threading.Lock()
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="vae-wire")

    def all(self) -> tuple[Served, ...]:
        return tuple(self._served() if callable(self._served) else self._served)

    def lanes(self) -> list[Lane]:
        """The queues that were used so far, one a device."""
        with self._guard:
            return list(self._lanes.values())

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
                "Several VAEs are served here.", f"Post to /vae/NAME/decode; names: {names}."
            )
        raise UnknownVAEError(f"No VAE called “{name[:80]}” is served here.", f"Served: {names}.")

    def lane(self, served: Served) -> Lane:
        """The queue of the device that `served` runs on."""
        with self._guard:
            key = id(served.queue)
            if key not in self._lanes:
                limits = self.limits
                self._lanes[key] = Lane(limits.queue, limits.queue_bytes, limits.batch_pixels)
            return self._lanes[key]

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

    def check(self, served: Served, action: Action, peek: wire.Peek) -> None:
        """Refuse by its parameters alone what would be too large.

        Raises:
            TooLargeError: over a limit.
        """
        limits = self.limits
        if peek.body_bytes is not None and peek.body_bytes > limits.max_body_bytes:
            raise TooLargeError(
                f"The tensor has {peek.body_bytes} bytes, more than the {limits.max_body_bytes} allowed."
            )
        if peek.batch is not None and peek.batch > limits.max_batch:
            raise TooLargeError(
                f"The batch has {peek.batch} pictures, more than the {limits.max_batch} allowed."
            )
        if peek.height is None or peek.width is None:
            return
        factor = served.spec.downscale if action == "decode" else 1
        height, width = peek.height * factor, peek.width * factor
        if height * width > limits.max_pixels:
            raise TooLargeError(
                f"A picture of {width}x{height} pixels is more than the {limits.max_pixels} pixels allowed.",
                "Send it in parts.",
            )

    def in_pool(self, work: Callable[[], Any]) -> Future[Any]:
        """Run a piece of parsing or packing away from the event loop and from the lanes."""
        return self._pool.submit(work)

    def parse(
        self,
        served: Served,
        action: Action,
        query: Sequence[tuple[str, str]],
        headers: Mapping[str, str],
        body: bytes,
    ) -> wire.DecodeRequest | wire.EncodeRequest:
        """A request's bytes as tensors, limits checked once more for parameters that came in the body."""
        if action == "decode":
            decode = wire.parse_decode_request(query, headers, body)
            batch, _, height, width = decode.latents.shape
            self.check(served, action, wire.Peek(batch, height, width))
            if decode.output in ("jpg", "png") and batch > 1:
                # Said before the work is done, not after.
                wire.refuse_batch(batch, decode.output)
            return decode
        encode = wire.parse_encode_request(
            query, headers, body, multiple=served.spec.downscale, max_pixels=self.limits.max_pixels
        )
        batch, _, height, width = encode.image.shape
        self.check(served, action, wire.Peek(batch, height, width))
        return encode

    def submit(self, served: Served, request: wire.DecodeRequest | wire.EncodeRequest) -> Future[Done]:
        """Queue the computing part; gives latents in the scaling asked for, or an image in [-1, 1]."""
        if isinstance(request, wire.DecodeRequest):
            action: Action = "decode"
            item = request.latents
            pixels = item.shape[0] * item.shape[2] * item.shape[3] * served.spec.downscale**2
        else:
            action, item = "encode", request.image
            pixels = item.shape[0] * item.shape[2] * item.shape[3]
        key = (served.name, action, tuple(item.shape[1:]), str(item.dtype), request.scaling)

        def run(items: Sequence[torch.Tensor]) -> Sequence[Computed | LatentRelayError]:
            return compute_together(served, action, items, request.scaling)

        return self.lane(served).submit(Task(key, pixels, item, run))

    def pack(
        self, request: wire.DecodeRequest | wire.EncodeRequest, done: Done, parse_seconds: float
    ) -> Reply:
        """The reply's headers and body, with `Server-Timing` in milliseconds."""
        started = time.perf_counter()
        computed: Computed = done.value
        tensor, cost = computed.tensor, computed.cost
        if isinstance(request, wire.DecodeRequest):
            dtype = str(request.latents.dtype).removeprefix("torch.")
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
        with self._guard:
            lanes = list(self._lanes.values())
        results = [lane.close(timeout) for lane in lanes]  # every one, not up to the first that is late
        emptied = all(results)
        self._pool.shutdown(wait=emptied)
        return emptied


@dataclass(frozen=True)
class Computed:
    """One item's result on the CPU, what its whole batch cost, and how it was come by."""

    tensor: torch.Tensor
    cost: Cost
    mode: str
    dtype: str
    overflowed: tuple[str, ...] = ()
    """Number formats that were tried before `dtype`."""


def compute_together(
    served: Served, action: Action, items: Sequence[torch.Tensor], scaling: wire.Scaling
) -> Sequence[Computed | LatentRelayError]:
    """Each item's result, or what went wrong with it; if they fail together, each gets a try of its own.

    So nobody's request fails because of whom it was batched with.
    """
    import torch

    sizes = [item.shape[0] for item in items]
    stacked = items[0] if len(items) == 1 else torch.cat(list(items))

    def compute() -> Computed:
        return _compute_one(served, action, stacked, scaling, alone=len(items) == 1)

    try:
        done = served.queue.run(compute)
    except LatentRelayError as error:
        if len(items) == 1:
            return [error]
        return [one for item in items for one in compute_together(served, action, [item], scaling)]
    return [replace(done, tensor=part) for part in done.tensor.split(sizes)]


def compute_alone(served: Served, action: Action, tensor: torch.Tensor, scaling: wire.Scaling) -> Computed:
    """One item's result.

    Raises:
        LatentRelayError: what went wrong with it.
    """
    (result,) = compute_together(served, action, [tensor], scaling)
    if isinstance(result, LatentRelayError):
        raise result
    return result


def _compute_one(
    served: Served, action: Action, tensor: torch.Tensor, scaling: wire.Scaling, *, alone: bool
) -> Computed:
    """Computed whole; a request alone gets one try in a leaner mode if memory runs out."""
    vae = served.load()
    try:
        return _climbing(served, vae, action, tensor, scaling)
    except OutOfMemoryError:
        if served.load_low_memory is None or not alone:
            raise
    log.warning("%s: out of memory, trying a leaner mode", served.name)
    return _climbing(served, served.load_low_memory(), action, tensor, scaling)


def _climbing(
    served: Served, vae: VAE, action: Action, tensor: torch.Tensor, scaling: wire.Scaling
) -> Computed:
    """Computed in the VAE's number format, and again in a wider one as long as it overflows.

    Every request starts where the VAE is, so that its result does not depend on what came before it.
    """
    import torch

    from backend.device import precision
    from backend.device.measure import Meter
    from backend.vae.base import LocalVAE

    overflowed: list[str] = []
    with Meter(getattr(vae, "device", torch.device("cpu"))) as meter:
        while True:
            try:
                result = _compute(served, vae, action, tensor, scaling)
                break
            except NonFiniteError:
                if not isinstance(vae, LocalVAE):
                    raise
                wider = precision.next_wider_dtype(vae.dtype, vae.device)
                if wider is None:
                    raise
                overflowed.append(_name(vae.dtype))
                log.warning("%s: %s overflowed, trying %s", served.name, overflowed[-1], _name(wider))
                vae = vae.with_module(precision.copy_in_dtype(vae.module, wider))
    dtype = _name(getattr(vae, "dtype", result.dtype))
    return Computed(result, meter.cost, vae.mode, dtype, tuple(overflowed))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _compute(
    served: Served, vae: VAE, action: Action, tensor: torch.Tensor, scaling: wire.Scaling
) -> torch.Tensor:
    if action == "decode":
        return vae.decode(rescale(tensor, scaling, served)).cpu()
    latents = vae.encode(tensor)
    return rescale(latents, scaling, served, back=True).cpu()


def rescale(
    latents: torch.Tensor, scaling: wire.Scaling, served: Served, *, back: bool = False
) -> torch.Tensor:
    """Latents from the sender's scaling to the VAE's own (`back`: the other way), untouched if they agree."""
    own = wire.Scaling(served.spec.scaling_factor, served.spec.shift_factor or 0.0)
    if scaling.own or served.fixed_scale or scaling == own:
        return latents
    source, target = (own, scaling) if back else (scaling, own)
    raw = latents.float() / source.factor + source.shift
    return ((raw - target.shift) * target.factor).to(
        latents.dtype if latents.is_floating_point() else raw.dtype
    )
