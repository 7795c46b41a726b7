"""The modes that compute here, by name."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from backend.errors import BadSettingError
from backend.models import LatentSpec
from backend.vae.base import LocalVAE
from backend.vae.streamed import Streamed
from backend.vae.tiled import Tiled
from backend.vae.tiny import Tiny
from backend.vae.whole import Whole


@dataclass(frozen=True)
class ModeOptions:
    """What some modes take beside the module; each looks at what it knows."""

    tile_size: int = 512
    tile_overlap: int = 128
    stop: threading.Event | None = None
    max_memory: int | None = None
    """Bytes that the streamed mode plans for; the other modes have no choice."""


LOCAL_MODES: dict[str, Callable[[Any, LatentSpec, ModeOptions], LocalVAE]] = {
    "whole": lambda module, spec, _: Whole(module, spec),
    "streamed": lambda module, spec, options: Streamed(
        module, spec, stop=options.stop, max_memory=options.max_memory
    ),
    "tiled": lambda module, spec, options: Tiled(
        module, spec, tile_size=options.tile_size, tile_overlap=options.tile_overlap, stop=options.stop
    ),
    "tiny": lambda module, spec, _: Tiny(module, spec),
}


def local_vae(mode: str, module: Any, spec: LatentSpec, options: ModeOptions | None = None) -> LocalVAE:
    """A local mode around the shared module; modes are cheap to make, the module is not.

    Raises:
        BadSettingError: no such local mode. UnsupportedVAEError: one that cannot run this VAE.
    """
    if mode not in LOCAL_MODES:
        raise BadSettingError("The VAE mode “{mode}” cannot run here.", mode=mode)
    return LOCAL_MODES[mode](module, spec, options or ModeOptions())
