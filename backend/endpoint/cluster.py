"""The endpoint on Ray Serve, for more GPUs than one machine has: `python -m backend.cluster --help`

    a client ──▶ Ingress (the same ASGI app: protocol, limits, token, errors; no GPU)
                  └──▶ VaeReplica × replicas (one VAE set on one GPU each, batched by Serve, scaled by Serve)

Computing is a pure function of the request. So when a replica dies under a request, the ingress dispatches that
request to another one: nothing that was accepted is lost. Ray is an optional dependency, in
requirements-cluster.txt; importing this module does not import it.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from backend import wire
from backend.device.queue import DeviceQueue
from backend.endpoint.app import build_app
from backend.endpoint.batching import Done
from backend.endpoint.compute import Computed, Served, compute_together
from backend.endpoint.flags import add_serving_flags, vae_sources
from backend.endpoint.service import TOKEN_VARIABLE, Limits, Service
from backend.endpoint.source import Source
from backend.errors import BusyError, LatentRelayError
from backend.report import Direction

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

NAME = "latent-relay"
MAX_TRIES = 4
"""Replicas that one request may be dispatched to before it is given up."""


@dataclass(frozen=True)
class ClusterConfig:
    """What runs on the cluster, and how much of it. It is sent to every process there."""

    vaes: tuple[tuple[str, str], ...]
    """(name, folder or repository) of each."""
    device: str = "auto"
    dtype: str = "auto"
    replicas: int = 1
    max_replicas: int | None = None
    """More than `replicas` lets Serve start replicas under load and stop them after it."""
    gpus: float = 0.0
    """GPUs reserved for a replica; 0 for replicas on CPUs."""
    cpus: float = 1.0
    max_batch: int = 4
    """Requests that Serve may hand to a replica together."""
    batch_wait: float = 0.005
    """Seconds that a batch waits for more requests."""
    limits: Limits = field(default_factory=Limits)
    """Of a replica."""
    token: str | None = field(default=None, repr=False)
    """What clients must send. Part of this, because the processes of a cluster need not have our environment."""

    @property
    def largest(self) -> int:
        """Replicas that may run at once."""
        return max(self.replicas, self.max_replicas or 0)


@dataclass(frozen=True)
class ComputeRequest:
    """The computing part of one request, as it is sent to a replica."""

    name: str
    """Of the VAE."""
    direction: Direction
    array: Any
    """NumPy array of the tensor; bfloat16 as float32, which holds every value of it."""
    scaling: wire.Scaling


class VaeReplica:
    """Holds the VAEs on its device and computes; Serve runs one in each replica's process."""

    def __init__(self, config: ClusterConfig) -> None:
        self._queue = DeviceQueue()
        sources = [
            Source(name, source, config.device, config.dtype, self._queue) for name, source in config.vaes
        ]
        for source in sources:
            source.module()
        self._served = {source.name: source.served for source in sources}

    async def compute(self, requests: list[ComputeRequest]) -> list[tuple[Computed, int] | LatentRelayError]:
        """Each request's result, as a NumPy array, with the size of the batch it was computed in; or its error."""
        return await asyncio.wrap_future(self._queue.submit(partial(self._compute, requests)))

    def _compute(self, requests: list[ComputeRequest]) -> list[Any]:
        import torch

        groups: dict[Any, list[int]] = {}
        for index, one in enumerate(requests):
            key = (one.name, one.direction, one.array.shape[1:], one.array.dtype.str, one.scaling)
            groups.setdefault(key, []).append(index)
        results: list[Any] = [None] * len(requests)
        for indices in groups.values():
            first = requests[indices[0]]
            # A copy, because Ray's arrays may not be written to.
            items = [torch.from_numpy(requests[index].array.copy()) for index in indices]
            done = compute_together(self._served[first.name], first.direction, items, first.scaling)
            for index, result in zip(indices, done, strict=True):
                results[index] = result
                # An error is given back and not raised: it must reach its own request only, not the whole batch.
                if not isinstance(result, LatentRelayError):
                    array: Any = result.tensor.float().numpy()
                    results[index] = replace(result, tensor=array), len(indices)
        return results


class ClusterService(Service):
    """The service of the ingress: everything as on one machine, but computing is dispatched to a replica."""

    def __init__(self, config: ClusterConfig, replicas: Any) -> None:
        """`replicas`: Serve's handle of the `VaeReplica` deployment."""
        queue = DeviceQueue()
        served = [Source(name, source, "cpu", "auto", queue).served for name, source in config.vaes]
        limits = replace(
            config.limits,
            queue=config.limits.queue * config.largest,
            queue_bytes=config.limits.queue_bytes * config.largest,
        )
        super().__init__(
            [replace(one, load=_not_here, load_low_memory=None, is_ready=lambda: True) for one in served],
            limits,
            config.token,
        )
        self._replicas = replicas

    def submit(self, served: Served, request: wire.DecodeRequest | wire.EncodeRequest) -> Future[Done]:
        """As on one machine; called on the event loop."""
        decode = isinstance(request, wire.DecodeRequest)
        tensor = request.latents if isinstance(request, wire.DecodeRequest) else request.image
        direction: Direction = "decode" if decode else "encode"
        compute = ComputeRequest(served.name, direction, _as_array(tensor), request.scaling)
        return asyncio.run_coroutine_threadsafe(self._dispatch(compute), asyncio.get_running_loop())

    async def _dispatch(self, request: ComputeRequest) -> Done:
        """The request computed by a replica; by another one if that is lost.

        Raises:
            BusyError: all are busy, or several were lost. LatentRelayError: what went wrong with it.
        """
        import torch
        from ray.exceptions import RayActorError, RayTaskError
        from ray.serve.exceptions import (
            BackPressureError,
            DeploymentUnavailableError,
            ReplicaUnavailableError,
        )

        started = time.perf_counter()
        for attempt in range(MAX_TRIES):
            try:
                result = await self._replicas.compute.remote(request)
            except (RayActorError, ReplicaUnavailableError, DeploymentUnavailableError) as error:
                log.warning(
                    "a worker was lost (%s); dispatching the request to another one", type(error).__name__
                )
                await asyncio.sleep(0.2 * 2**attempt)
                continue
            except BackPressureError:
                raise BusyError("All workers are busy.", "Try again in 2 s.", retry_after=2) from None
            except RayTaskError as error:
                raise (error.cause if isinstance(error.cause, Exception) else error) from None
            if isinstance(result, LatentRelayError):
                raise result
            computed, batch = result
            seconds = computed.cost.seconds
            waited = max(0.0, time.perf_counter() - started - seconds)
            tensor = torch.from_numpy(computed.tensor.copy())
            return Done(replace(computed, tensor=tensor), waited, seconds, batch)
        raise BusyError("The workers were lost one after another.", "Try again in 10 s.", retry_after=10)


def _not_here() -> Any:
    raise NotImplementedError("the ingress computes nothing")


def _as_array(tensor: torch.Tensor) -> Any:
    import torch

    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).contiguous().numpy()


class Ingress:
    """Builds the ASGI app in the process where it will run."""

    def __init__(self, config: ClusterConfig, replicas: Any) -> None:
        self._config = config
        self._replicas = replicas

    def __serve_build_asgi_app__(self) -> Any:
        return build_app(ClusterService(self._config, self._replicas))


def build_cluster(config: ClusterConfig) -> Any:
    """The Serve application, for `ray.serve.run`."""
    from ray import serve

    class BatchingReplica(VaeReplica):
        compute = serve.batch(max_batch_size=config.max_batch, batch_wait_timeout_s=config.batch_wait)(
            VaeReplica.compute
        )

    scale: dict[str, Any] = {"num_replicas": config.replicas}
    if config.largest > config.replicas:
        scale = {
            "autoscaling_config": {
                "min_replicas": config.replicas,
                "max_replicas": config.largest,
                "target_ongoing_requests": 2 * config.max_batch,
            }
        }
    replicas = serve.deployment(
        BatchingReplica,
        name="Worker",
        ray_actor_options={"num_gpus": config.gpus, "num_cpus": config.cpus},
        # The ingress bounds what is inside; a replica takes what fills its next batches.
        max_ongoing_requests=4 * config.max_batch,
        health_check_period_s=2,
        **scale,
    ).bind(config)
    ingress = serve.deployment(
        serve.ingress()(Ingress),
        name="Ingress",
        ray_actor_options={"num_cpus": 0.1},
        # A little over the ingress' bound, so that it is the ingress that says "busy", in JSON.
        max_ongoing_requests=config.limits.queue * config.largest + 16,
    )
    return ingress.bind(config, replicas)


def run(config: ClusterConfig, host: str, port: int) -> None:
    """Start the app on the Ray that is there, or on a local one, and return once it answers."""
    from ray import serve

    serve.start(http_options={"host": host, "port": port})
    serve.run(build_cluster(config), name=NAME, route_prefix="/")


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until interrupted; 2 for settings that cannot be used."""
    options = _parser().parse_args(arguments)
    try:
        config = read_config(options, os.environ)
    except LatentRelayError as error:
        sys.stderr.write(f"{error.sentence}\n")
        return 2
    run(config, options.host, options.port)
    log.info("serving at http://%s:%d", options.host, options.port)
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        from ray import serve

        serve.shutdown()
    return 0


def read_config(options: argparse.Namespace, environ: Mapping[str, str]) -> ClusterConfig:
    """What the flags and this process's environment describe.

    Raises:
        BadSettingError: a VAE that is not NAME=FOLDER_OR_REPO.
    """
    return ClusterConfig(
        vae_sources(options),
        device=options.device,
        dtype=options.dtype,
        replicas=options.replicas,
        max_replicas=options.max_replicas,
        gpus=options.gpus,
        cpus=options.cpus,
        max_batch=options.max_batch,
        limits=Limits(queue=options.queue),
        token=environ.get(TOKEN_VARIABLE) or None,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m backend.cluster",
        description="Serve VAEs on a Ray cluster; without one, on this machine.",
        epilog=f"RAY_ADDRESS names the cluster; {TOKEN_VARIABLE} holds the token that clients must send.",
    )
    defaults = ClusterConfig(())
    add_serving_flags(parser)
    parser.add_argument(
        "--replicas", type=int, default=1, help="Workers, or the fewest of them. (%(default)s)"
    )
    parser.add_argument("--max-replicas", type=int, help="The most workers that Serve may start under load.")
    parser.add_argument("--gpus", type=float, default=0.0, help="GPUs a worker, e.g. 1 or 0.5. (%(default)s)")
    parser.add_argument("--cpus", type=float, default=1.0, help="CPUs a worker. (%(default)s)")
    parser.add_argument(
        "--max-batch", type=int, default=defaults.max_batch, help="Requests a batch. (%(default)s)"
    )
    parser.add_argument(
        "--queue", type=int, default=Limits().queue, help="Requests inside a worker. (%(default)s)"
    )
    return parser
