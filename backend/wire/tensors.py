"""Tensors as bytes, and Flux's packed latents."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from backend.dtypes import dtype_name
from backend.errors import WireError
from backend.families import unpack_tokens
from backend.message import Message

if TYPE_CHECKING:
    import torch

DTYPES: dict[str, int] = {"float16": 2, "float32": 4, "bfloat16": 2, "uint8": 1}
"""What may travel, with the bytes of one number."""


def pack_tensor(tensor: torch.Tensor) -> bytes:
    """The tensor's numbers as little-endian bytes, row by row. Its dtype must be one of `DTYPES`."""
    import torch

    if dtype_name(tensor.dtype) not in DTYPES:
        known = Message("Known: {names}.", names=", ".join(DTYPES))
        raise WireError("A tensor of {dtype} cannot travel.", known, dtype=str(tensor.dtype))
    # NumPy has no bfloat16, so every dtype goes as its bytes.
    plain = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return plain.numpy().tobytes()


def parse_tensor(body: bytes, shape: tuple[int, ...], dtype: str) -> torch.Tensor:
    """Inverse of `pack_tensor`.

    Raises:
        WireError: the bytes are not as many as shape and dtype say.
    """
    import torch

    expected = math.prod(shape) * DTYPES[dtype]
    if len(body) != expected:
        raise WireError(
            "A {dtype} tensor of shape {shape} has {expected} bytes, but {size} came.",
            "Check shape and dtype, and that the whole body was sent.",
            dtype=dtype,
            shape=list(shape),
            expected=expected,
            size=len(body),
        )
    if not body:
        raise WireError("The body is empty.")
    # A copy, because torch wants memory it may write to.
    return torch.frombuffer(bytearray(body), dtype=getattr(torch, dtype)).reshape(shape)


def unpack_latents(latents: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Flux's packed tokens (B, h/2 * w/2, 4C) to (B, C, h, w), for a picture of height x width pixels.

    As `FluxPipeline._unpack_latents`: h and w are 2 * (pixels // 16).
    """
    return unpack_tokens(latents, height // 16, width // 16)


def pack_latents(latents: torch.Tensor) -> torch.Tensor:
    """(B, C, h, w), h and w even, to Flux's packed tokens (B, h/2 * w/2, 4C). Inverse of `unpack_latents`."""
    batch, channels, height, width = latents.shape
    if height % 2 or width % 2:
        raise WireError(
            "Latents of {height}x{width} cannot be packed two by two.", height=height, width=width
        )
    grid = latents.reshape(batch, channels, height // 2, 2, width // 2, 2)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(batch, height // 2 * (width // 2), channels * 4)
