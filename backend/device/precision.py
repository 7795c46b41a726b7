"""Which dtype a model computes in, and what to do when one overflows: float16 → bfloat16 → float32."""

from __future__ import annotations

import copy
import functools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from backend.dtypes import dtype_name as dtype_name  # also for those who import it from here
from backend.errors import NonFiniteError
from backend.message import Message

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

_WORTHWHILE = 0.8
"""bfloat16 keeps 8 bits of 24, so on a CPU it must save at least a fifth of the time."""


def pick_dtype(requested: str, device: torch.device) -> tuple[torch.dtype, Message]:
    """(dtype, reason) for a model published in the dtype named `requested`, on `device`.

    A GPU computes in it as published. A CPU computes in float32, unless the model was published in half precision
    anyway and this CPU is measurably faster in bfloat16.
    """
    import torch

    published: torch.dtype = getattr(torch, requested)
    if published == torch.float32:
        return published, Message("This model was made in float32.")
    if published == torch.bfloat16 and not has_bfloat16(device):
        return torch.float32, Message("This card has no bfloat16, so it computes in float32.")
    if device.type != "cpu":
        return published, Message("This model was published in {dtype}.", dtype=requested)
    if bfloat16_pays():
        return torch.bfloat16, Message("This processor computes faster in bfloat16.")
    return torch.float32, Message("This processor computes best in float32.")


def next_wider_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype | None:
    """The dtype to try after `dtype` overflowed; None after float32. bfloat16 has float32's range."""
    import torch

    # MPS knows bfloat16 only since macOS 14.
    if dtype == torch.float16 and device.type != "mps" and has_bfloat16(device):
        return torch.bfloat16
    return None if dtype == torch.float32 else torch.float32


def overflow_hint(dtype: torch.dtype) -> Message:
    """What to do about an overflow in `dtype`."""
    import torch

    if dtype in (torch.float16, torch.bfloat16):
        return Message("A wider number format cures this.")
    return Message("The numbers that it was given are too large for any number format.")


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device has bfloat16 in hardware: of NVIDIA's cards those from Ampere on (compute capability 8.0).

    `torch.cuda.is_bf16_supported` is also true where it is emulated, and cuDNN's convolutions may then find no engine.
    """
    if device.type != "cuda":
        return True
    import torch

    return torch.cuda.get_device_capability(device) >= (8, 0)


def copy_in_dtype(module: Any, dtype: torch.dtype) -> Any:
    """A copy in another dtype. The original stays, since from float16 to bfloat16 there is no exact way back."""
    return copy.deepcopy(module).to(dtype)


def overflow_message(dtype: str, wider: str) -> Message:
    """What a report says of one retry."""
    return Message("{dtype} overflowed, so it ran again in {wider}.", dtype=dtype, wider=wider)


def retry_with_upcast(
    load: Callable[[torch.dtype | None], Any],
    compute: Callable[[Any], T],
    device: torch.device | None = None,
) -> tuple[T, str, tuple[str, ...]]:
    """(result, dtype that gave it, dtypes that overflowed before): `compute(load(None))`, then in wider dtypes.

    `load(dtype)` gives something with `dtype` and `device`, such as a VAE or a pipeline, in that dtype; None is the
    one it is held in. The reference to what was loaded before is dropped first. `device`: where it computes, if that is
    not where it lies, as with offloading.

    Raises:
        NonFiniteError: also float32 overflowed.
    """
    overflowed: tuple[str, ...] = ()
    following: torch.dtype | None = None
    while True:
        model = load(following)
        name = dtype_name(model.dtype)
        try:
            return compute(model), name, overflowed
        except NonFiniteError:
            following = next_wider_dtype(model.dtype, device or model.device)
            if following is None:
                raise
        overflowed = (*overflowed, name)
        del model


@functools.cache
def bfloat16_pays() -> bool:
    """Whether this CPU has bfloat16 instructions and a convolution of the usual kind is faster with them.

    Measured once, in pairs so that other work on the machine slows both alike, in a few tenths of a second.
    """
    if not _has_bfloat16():
        return False
    half, full = _convolution("bfloat16"), _convolution("float32")
    ratios = [_seconds(half) / _seconds(full) for _ in range(7)]
    return statistics.median(ratios) < _WORTHWHILE


def _has_bfloat16() -> bool:
    """The instructions by the names in Linux' /proc/cpuinfo: AVX-512 and AMX on x86, `bf16` on ARM."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return False
    words = set(cpuinfo.read_text().split())
    return bool(words & {"avx512_bf16", "amx_bf16", "bf16"})


def _convolution(dtype: str) -> Callable[[], object]:
    """A convolution of a VAE's usual size, already called once: the first call chooses a kernel."""
    import torch

    image = torch.zeros(1, 256, 48, 48, dtype=getattr(torch, dtype))
    layer = torch.nn.Conv2d(256, 256, 3, padding=1, dtype=image.dtype).requires_grad_(False)
    layer(image)
    return lambda: layer(image)


def _seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin
