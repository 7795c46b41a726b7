"""A server's replies, packed and parsed."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from backend.dtypes import dtype_name
from backend.errors import WireError
from backend.message import Message
from backend.wire.parameters import read_dtype, read_shape
from backend.wire.pictures import (
    PICTURE_TYPES,
    image_to_pixels,
    pack_picture,
    parse_picture,
    pixels_to_image,
    sniff,
)
from backend.wire.requests import Output, unwrap
from backend.wire.tensors import DTYPES, pack_tensor, parse_tensor

if TYPE_CHECKING:
    import torch


def pack_tensor_reply(tensor: torch.Tensor, *, base64_reply: bool = False) -> tuple[dict[str, str], bytes]:
    """(headers, body) of a reply that is a tensor; what an encode always answers."""
    shape, dtype = list(tensor.shape), dtype_name(tensor.dtype)
    raw = pack_tensor(tensor)
    headers = {"content-type": "tensor/binary", "shape": json.dumps(shape), "dtype": dtype}
    if not base64_reply:
        return headers, raw
    document = {
        "inputs": base64.b64encode(raw).decode("ascii"),
        "parameters": {"shape": shape, "dtype": dtype},
    }
    return {**headers, "content-type": "tensor/base64"}, json.dumps(document).encode("ascii")


def parse_tensor_reply(headers: Mapping[str, str], body: bytes) -> torch.Tensor:
    """Inverse of `pack_tensor_reply`.

    Raises:
        WireError: not a tensor, or not the one that its headers describe.
    """
    parameters: dict[str, Any] = dict(headers)
    if "base64" in headers.get("content-type", "") or "json" in headers.get("content-type", ""):
        parameters, body, _ = unwrap((), {"content-type": "tensor/base64"}, body)
    elif "shape" not in headers:
        raise WireError("The reply is {what}, not a tensor.", what=_describe(headers, body))
    return parse_tensor(body, read_shape(parameters.get("shape")), read_dtype(parameters))


def pack_decode_reply(
    image: torch.Tensor, output: Output, dtype: str = "float32", *, base64_reply: bool = False
) -> tuple[dict[str, str], bytes]:
    """(headers, body) for a decoded image (B, 3, H, W) in [-1, 1]; `dtype` is the one of a float reply.

    Raises:
        WireError: a batch asked for as one picture file.
    """
    import torch

    if output == "jpg" or output == "png":
        return {"content-type": PICTURE_TYPES[output]}, pack_picture(image, output)
    if output == "uint8":
        return pack_tensor_reply(image_to_pixels(image), base64_reply=base64_reply)
    if output == "unit":
        image = (image.float() * 0.5 + 0.5).clamp(0.0, 1.0)
    return pack_tensor_reply(image.to(getattr(torch, dtype)), base64_reply=base64_reply)


def parse_decode_reply(headers: Mapping[str, str], body: bytes, output: Output) -> torch.Tensor:
    """Inverse of `pack_decode_reply`: float32 (B, 3, H, W) in [-1, 1] whatever form it came in.

    Raises:
        WireError: not what `output` asked for.
    """
    if output == "jpg" or output == "png":
        if sniff(body) != output:
            raise WireError(
                "The reply is {what}, not the {kind} picture asked for.",
                what=_describe(headers, body),
                kind=output,
            )
        return parse_picture(body)
    tensor = parse_tensor_reply(headers, body)
    channels = tensor.ndim == 4 and tensor.shape[3 if output == "uint8" else 1]
    if channels != 3 or (dtype_name(tensor.dtype) == "uint8") != (output == "uint8"):
        raise WireError(
            "The reply is a {dtype} tensor of shape {shape}, not the picture asked for as {kind}.",
            dtype=dtype_name(tensor.dtype),
            shape=list(tensor.shape),
            kind=output,
        )
    if output == "uint8":
        return pixels_to_image(tensor)
    return tensor.float() * 2.0 - 1.0 if output == "unit" else tensor.float()


def _describe(headers: Mapping[str, str], body: bytes) -> Message:
    """What a reply is, in a few words for a person."""
    mime = headers.get("content-type", "").split(";")[0].strip().lower()
    if not body:
        return Message("empty")
    if mime == "text/html" or body.lstrip()[:1] == b"<":
        return Message("a web page")
    if (kind := sniff(body)) in PICTURE_TYPES:
        return Message("a {kind} picture", kind=kind)
    if mime:
        return Message("{count} bytes of type {mime}", count=len(body), mime=mime[:60])
    return Message("{count} bytes of an unknown type", count=len(body))


def pack_timing(stages: Mapping[str, float]) -> str:
    """Seconds a stage as a `Server-Timing` header, which counts milliseconds."""
    return ", ".join(f"{name};dur={seconds * 1000:.3f}" for name, seconds in stages.items())


def pack_computed(dtype: str, overflowed: Sequence[str] = ()) -> str:
    """The dtype a result was computed in, and those that overflowed before it, as one header."""
    return "; ".join([dtype, *(f"overflowed={name}" for name in overflowed)])


def parse_computed(header: str) -> tuple[str, tuple[str, ...]] | None:
    """Inverse of `pack_computed`; None where a server says nothing that is known here."""
    dtype, *rest = (part.strip() for part in header.split(";"))
    overflowed = tuple(part.removeprefix("overflowed=") for part in rest)
    return (dtype, overflowed) if {dtype, *overflowed} <= set(DTYPES) else None


def parse_timing(header: str) -> dict[str, float]:
    """Inverse of `pack_timing`; entries of other servers without a duration are left out."""
    stages = {}
    for entry in header.split(","):
        name, *parameters = (part.strip() for part in entry.split(";"))
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            try:
                seconds = float(value.strip('"')) / 1000 if key.strip() == "dur" else math.nan
            except ValueError:
                continue
            if math.isfinite(seconds) and seconds >= 0:
                stages[name] = seconds
    return stages
