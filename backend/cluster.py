"""The endpoint on Ray Serve, for more GPUs than one machine has: `python -m backend.cluster --help`

    a client ──▶ Door (the same ASGI app: protocol, limits, token, errors; no GPU)
                  └──▶ Worker × replicas (one VAE set on one GPU each, batched by Serve, scaled by Serve)

Computing is a pure function of the request. So when a worker dies under a request, the door hands that request to
another one: nothing that was accepted is lost. Ray is a dependency of its own, in requirements-cluster.txt; importing
this module does not import it.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from backend import wire
from backend.device.queue import DeviceQueue
from backend.endpoint.app import build_app
from backend.endpoint.batching import Done
from backend.endpoint.service import Action, Computed, Limits, Served, Service, compute_together
from backend.endpoint.source import Source, parse_source
from backend.errors import BusyError, LatentRelayError
from backend.models import BUILTIN

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

NAME = "latent-relay"
TOKEN_VARIABLE = "LATENT_RELAY_SERVE_TOKEN"
TRIES = 4
"""Workers that one request may be handed to before it is given up."""


@dataclass(frozen=True)
class Plan:
    """What runs on the cluster."""

    vaes: tuple[tuple[str, str], ...]
    device: str = "auto"
    dtype: str = "auto"
    replicas: int = 1
    max_replicas: int | None = None
    """More than `replicas` lets Serve start workers under load and stop them after it."""
    gpus: float = 0.0
    """GPUs a worker takes for itself; 0 for workers on CPUs."""
    cpus: float = 1.0
    max_batch: int = 4
    """Requests that Serve may hand to a worker together."""
    batch_wait: float = 0.005
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class Errand:
    """One request's computing part, as it travels to a worker."""

    name: str
    action: Action
    array: Any
    """NumPy array of the tensor; bfloat16 as float32, which holds every value of it."""
    scaling: wire.Scaling


class Worker:
    """Holds the VAEs on its device and computes; Serve runs one a replica."""

    def __init__(self, plan: Plan) -> None:
        turns = DeviceQueue()
        sources = [Source(name, source, plan.device, plan.dtype, turns) for name, source in plan.vaes]
        for source in sources:
            source.module()
        self._served = {source.name: source.served for source in sources}

    async def compute(self, errands: list[Errand]) -> list[tuple[Computed, int] | LatentRelayError]:
        """Each errand's result, as a NumPy array, with the size of the batch it was computed in; or its error."""
        return await asyncio.to_thread(self._compute, errands)

    def _compute(self, errands: list[Errand]) -> list[Any]:
        import torch

        groups: dict[Any, list[int]] = {}
        for index, errand in enumerate(errands):
            key = (errand.name, errand.action, errand.array.shape[1:], errand.array.dtype.str, errand.scaling)
            groups.setdefault(key, []).append(index)
        results: list[Any] = [None] * len(errands)
        for indices in groups.values():
            first = errands[indices[0]]
            # A copy, because what Ray hands over may not be written to.
            items = [torch.from_numpy(errands[index].array.copy()) for index in indices]
            done = compute_together(self._served[first.name], first.action, items, first.scaling)
            for index, result in zip(indices, done, strict=True):
                results[index] = result
                # An error is given back and not raised: it must reach its own request only, not the whole batch.
                if not isinstance(result, LatentRelayError):
                    array: Any = result.tensor.float().numpy()
                    results[index] = replace(result, tensor=array), len(indices)
        return results


class ClusterService(Service):
    """The service of the door: everything as on one machine, but computing goes to a worker."""

    def __init__(self, plan: Plan, workers: Any) -> None:
        turns = DeviceQueue()
        served = [Source(name, source, "cpu", "auto", turns).served for name, source in plan.vaes]
        most = max(plan.replicas, plan.max_replicas or 0)
        limits = replace(
            plan.limits, queue=plan.limits.queue * most, queue_bytes=plan.limits.queue_bytes * most
        )
        super().__init__(
            [replace(one, load=_not_here, load_low_memory=None, is_ready=lambda: True) for one in served],
            limits,
            os.environ.get(TOKEN_VARIABLE) or None,
        )
        self._workers = workers

    def submit(self, served: Served, request: wire.DecodeRequest | wire.EncodeRequest) -> Future[Done]:
        """As on one machine; called on the event loop."""
        decode = isinstance(request, wire.DecodeRequest)
        tensor = request.latents if isinstance(request, wire.DecodeRequest) else request.image
        errand = Errand(served.name, "decode" if decode else "encode", _as_array(tensor), request.scaling)
        return asyncio.run_coroutine_threadsafe(self._hand_over(errand), asyncio.get_running_loop())

    async def _hand_over(self, errand: Errand) -> Done:
        import torch
        from ray.exceptions import RayActorError, RayTaskError
        from ray.serve.exceptions import (
            BackPressureError,
            DeploymentUnavailableError,
            ReplicaUnavailableError,
        )

        started = time.perf_counter()
        for attempt in range(TRIES):
            try:
                result = await self._workers.compute.remote(errand)
            except (RayActorError, ReplicaUnavailableError, DeploymentUnavailableError) as error:
                log.warning(
                    "a worker was lost (%s); handing the request to another one", type(error).__name__
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
    raise NotImplementedError("the door computes nothing")


def _as_array(tensor: torch.Tensor) -> Any:
    import torch

    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).contiguous().numpy()


class Door:
    """Builds the ASGI app in the process where it will run."""

    def __init__(self, plan: Plan, workers: Any) -> None:
        self._plan = plan
        self._workers = workers

    def __serve_build_asgi_app__(self) -> Any:
        return build_app(ClusterService(self._plan, self._workers))


def build_cluster(plan: Plan) -> Any:
    """The Serve application; give it to `ray.serve.run`."""
    from ray import serve

    class BatchingWorker(Worker):
        compute = serve.batch(max_batch_size=plan.max_batch, batch_wait_timeout_s=plan.batch_wait)(
            Worker.compute
        )

    scale: dict[str, Any] = {"num_replicas": plan.replicas}
    if plan.max_replicas is not None and plan.max_replicas > plan.replicas:
        scale = {
            "autoscaling_config": {
                "min_replicas": plan.replicas,
                "max_replicas": plan.max_replicas,
                "target_ongoing_requests": 2 * plan.max_batch,
            }
        }
    workers = serve.deployment(
        BatchingWorker,
        name="Worker",
        ray_actor_options={"num_gpus": plan.gpus, "num_cpus": plan.cpus},
        # The door bounds what is inside; a worker takes what fills its next batches.
        max_ongoing_requests=4 * plan.max_batch,
        health_check_period_s=2,
        **scale,
    ).bind(plan)
    door = serve.deployment(
        serve.ingress()(Door),
        name="Door",
        ray_actor_options={"num_cpus": 0.1},
        # A little over the door's own bound, so that it is the door that says "busy", in JSON.
        max_ongoing_requests=plan.limits.queue * max(plan.replicas, plan.max_replicas or 0) + 16,
    )
    return door.bind(plan, workers)


def run(plan: Plan, host: str, port: int) -> None:
    """Start the app on the Ray that is there, or on a local one, and return once it answers."""
    from ray import serve

    serve.start(http_options={"host": host, "port": port})
    serve.run(build_cluster(plan), name=NAME, route_prefix="/")


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until interrupted; 2 for settings that cannot be used."""
    parser = argparse.ArgumentParser(
        prog="python -m backend.cluster",
        description="Serve VAEs on a Ray cluster; without one, on this machine.",
        epilog=f"RAY_ADDRESS names the cluster; {TOKEN_VARIABLE} holds the token that clients must send.",
    )
    defaults = Plan(())
    parser.add_argument(
        "--vae", action="append", metavar="NAME=FOLDER_OR_REPO", help="As of backend.endpoint."
    )
    parser.add_argument("--host", default="127.0.0.1", help="Address to listen on. (%(default)s)")
    parser.add_argument("--port", type=int, default=7861, help="Port to listen on. (%(default)s)")
    parser.add_argument("--device", default=defaults.device, help="auto, cpu, cuda. (%(default)s)")
    parser.add_argument("--dtype", default=defaults.dtype, choices=("auto", "float32", "float16", "bfloat16"))
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
    options = parser.parse_args(arguments)
    try:
        vaes = tuple(parse_source(text) for text in options.vae or [f"builtin={BUILTIN.repository}"])
    except LatentRelayError as error:
        sys.stderr.write(f"{error.sentence}\n")
        return 2
    settings = {
        key: value for key, value in vars(options).items() if key in asdict(defaults) and key != "vaes"
    }
    run(Plan(vaes, **settings, limits=Limits(queue=options.queue)), options.host, options.port)
    log.info("serving at http://%s:%d", options.host, options.port)
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        from ray import serve

        serve.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
