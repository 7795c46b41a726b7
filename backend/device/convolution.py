"""What a convolution of this machine's library allocates, found out by running a small one.

oneDNN may hold a convolution's input and output rearranged, with channels padded to a multiple of its vectors'
length, and a float32 sum for each thread. Where it does not know the dtype, torch writes out each pixel's whole
neighbourhood, nine times the input. Which it is depends on the processor, the dtype, the channels and the threads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from backend.device.allocations import measure_allocations


@dataclass(frozen=True)
class ConvolutionMemory:
    """Elements at a convolution's peak, its output included, its input and weights not."""

    per_pixel: float
    """Of its input's pixels."""
    fixed: float = 0.0

    def elements(self, pixels: float) -> float:
        return self.per_pixel * pixels + self.fixed


Probe = Callable[[int, int, int], ConvolutionMemory]
"""(channels in, channels out, kernel size) to what such a convolution takes; of stride 1 and one picture."""


def convolution_probe(dtype: str) -> Probe:
    """Runs a small convolution in that dtype for each new shape and remembers what it took: tens of milliseconds."""
    import torch

    threads = torch.get_num_threads()
    return lambda channels_in, channels_out, kernel: _measured(
        dtype, threads, channels_in, channels_out, kernel
    )


@lru_cache(maxsize=256)
def _measured(
    dtype: str, _threads: int, channels_in: int, channels_out: int, kernel: int
) -> ConvolutionMemory:
    """From two sizes: a map's bytes follow its pixels, those of rearranged weights do not.

    `_threads` is part of what is remembered; the convolution uses as many as torch is set to.
    """
    import torch

    element = getattr(torch, dtype)
    convolution = torch.nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, dtype=element)
    convolution.requires_grad_(False)
    width = 32
    # torch leaves float32 inputs of less than 20,480 values to another routine than larger ones, and oneDNN leaves
    # small maps to a single thread.
    height = max(32 if kernel == 1 else 2, -(-24_000 // (channels_in * width)))
    found: list[tuple[int, float]] = []
    with torch.inference_mode():
        for rows in (height, 2 * height):
            image = torch.zeros(1, channels_in, rows, width, dtype=element)
            with measure_allocations() as peak:
                convolution(image)
            if peak.bytes is None:  # somebody's profiler is on: without padding, both operands are rearranged
                return ConvolutionMemory(channels_in + channels_out)
            found.append((rows * width, peak.bytes / element.itemsize))
    (pixels, small), (more_pixels, large) = found
    per_pixel = (large - small) / (more_pixels - pixels)
    return ConvolutionMemory(per_pixel, max(0.0, small - per_pixel * pixels))
