"""The computing part of a request: one served VAE, run on its device's thread, with both of its fallbacks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from backend import wire
from backend.device.queue import DeviceQueue
from backend.dtypes import dtype_name
from backend.errors import LatentRelayError, OutOfMemoryError
from backend.models import LatentSpec
from backend.report import Cost, Direction

if TYPE_CHECKING:
    import torch

    from backend.vae.base import VAE

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Served:
    """One VAE on offer. `load` may take long and should keep what it loaded; it is called on the thread of `queue`."""

    name: str
    spec: LatentSpec
    load: Callable[[], VAE]
    queue: DeviceQueue = field(default_factory=DeviceQueue)
    """One a device, shared with whatever else computes there."""
    load_low_memory: Callable[[], VAE] | None = None
    """A mode of the same VAE that needs less memory, for a second try."""
    is_ready: Callable[[], bool] = lambda: True
    title: str = ""
    fixed_scale: bool = False
    """Whether the VAE takes the denoiser's latents as they are (AutoencoderTiny), whatever factors are sent."""


@dataclass(frozen=True)
class Computed:
    """One item's result on the CPU, what its whole batch cost, and how it was computed."""

    tensor: torch.Tensor
    """Of a decode an image (B, 3, H, W) in [-1, 1], of an encode latents (B, C, H/f, W/f) in the scaling asked for."""
    cost: Cost
    mode: str
    dtype: str
    overflowed: tuple[str, ...] = ()
    """Dtypes that were tried before `dtype`."""


def compute_together(
    served: Served, direction: Direction, items: Sequence[torch.Tensor], scaling: wire.Scaling
) -> list[Computed | LatentRelayError]:
    """Each item's result, or what went wrong with it; if they fail together, each gets a try by itself.

    So no request fails because of those it was batched with. To be called on the thread of `served.queue`. The items
    have one dtype and one shape but for the batch: images or latents, as `VAE` takes them.
    """
    import torch

    sizes = [item.shape[0] for item in items]
    stacked = items[0] if len(items) == 1 else torch.cat(list(items))
    try:
        done = _compute(served, direction, stacked, scaling, alone=len(items) == 1)
    except LatentRelayError as error:
        if len(items) == 1:
            return [error]
    else:
        return [replace(done, tensor=part) for part in done.tensor.split(sizes)]
    return [one for item in items for one in compute_together(served, direction, [item], scaling)]


def compute_alone(
    served: Served, direction: Direction, tensor: torch.Tensor, scaling: wire.Scaling
) -> Computed:
    """One item's result, computed in its order of arrival on `served.queue`.

    Raises:
        LatentRelayError: what went wrong with it.
    """
    (result,) = served.queue.run(lambda: compute_together(served, direction, [tensor], scaling))
    if isinstance(result, LatentRelayError):
        raise result
    return result


def _compute(
    served: Served, direction: Direction, tensor: torch.Tensor, scaling: wire.Scaling, *, alone: bool
) -> Computed:
    """Computed whole; a request alone is tried once more in the mode that needs less memory, if memory runs out."""
    try:
        return _compute_with(served.load(), served, direction, tensor, scaling)
    except OutOfMemoryError:
        if served.load_low_memory is None or not alone:
            raise
    log.warning("%s: out of memory, trying a mode that needs less", served.name)
    return _compute_with(served.load_low_memory(), served, direction, tensor, scaling)


def _compute_with(
    vae: VAE, served: Served, direction: Direction, tensor: torch.Tensor, scaling: wire.Scaling
) -> Computed:
    """Computed in the VAE's dtype, and again in wider ones as long as it overflows.

    Every request starts in the VAE's dtype, so that its result does not depend on what came before it.
    """
    import torch

    from backend.device.measure import Meter
    from backend.device.precision import copy_in_dtype, retry_with_upcast
    from backend.vae.base import LocalVAE

    def run(model: VAE) -> torch.Tensor:
        if direction == "decode":
            return model.decode(rescale(tensor, scaling, served)).cpu()
        return rescale(model.encode(tensor), scaling, served, back=True).cpu()

    with Meter(getattr(vae, "device", torch.device("cpu"))) as meter:
        if isinstance(vae, LocalVAE):
            local = vae

            def load(wider: torch.dtype | None) -> LocalVAE:
                if wider is None:
                    return local
                log.warning("%s: overflowed, trying %s", served.name, dtype_name(wider))
                return local.with_module(copy_in_dtype(local.module, wider))

            result, dtype, overflowed = retry_with_upcast(load, run)
        else:
            result = run(vae)
            dtype, overflowed = dtype_name(result.dtype), ()
    return Computed(result, meter.cost, vae.mode, dtype, overflowed)


def rescale(
    latents: torch.Tensor, scaling: wire.Scaling, served: Served, *, back: bool = False
) -> torch.Tensor:
    """Latents from the sender's scaling to the VAE's (`back`: the other way), untouched if they agree."""
    configured = wire.Scaling(served.spec.scaling_factor, served.spec.shift_factor or 0.0)
    if scaling.configured or served.fixed_scale or scaling == configured:
        return latents
    source, target = (configured, scaling) if back else (scaling, configured)
    raw = latents.float() / source.factor + source.shift
    return ((raw - target.shift) * target.factor).to(
        latents.dtype if latents.is_floating_point() else raw.dtype
    )
