"""In which number format training runs: bfloat16 only where it is measured to be faster than float32.

Processors without bfloat16 instructions emulate them, several times slower than float32.
"""

import time
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
from torch.nn.functional import conv2d


def seconds(device: str, dtype: torch.dtype, repeats: int = 3) -> float:
    """The best of a few runs of a convolution as the models have it, forwards and back."""
    best = float("inf")
    with torch.inference_mode(False), torch.enable_grad():  # the caller may be in another mode
        image = torch.randn(4, 32, 64, 64, device=device, dtype=dtype, requires_grad=True)
        weight = torch.randn(32, 32, 3, 3, device=device, dtype=dtype, requires_grad=True)
        for _ in range(repeats + 1):
            began = time.perf_counter()
            conv2d(image, weight, padding=1).sum().backward()
            if device != "cpu":
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - began)
    return best


@cache
def fastest(device: str) -> torch.dtype:
    """float32 or bfloat16, measured once a process."""
    return min((torch.float32, torch.bfloat16), key=lambda dtype: seconds(device, dtype))


def autocast(device: str) -> AbstractContextManager[object]:
    """Autocast to bfloat16 where it is the faster, else nothing."""
    return torch.autocast(device, torch.bfloat16) if fastest(device) == torch.bfloat16 else nullcontext()
