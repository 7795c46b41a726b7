"""What a server answers, packed and parsed."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from backend.errors import WireError
from backend.wire.parameters import dtype_name, read_shape
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
    shape, dtype = list(tensor.shape), str(tensor.dtype).removeprefix("torch.")
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
        WireError: not a tensor, or not the one its headers tell of.
    """
    parameters: dict[str, Any] = dict(headers)
    if "base64" in headers.get("content-type", "") or "json" in headers.get("content-type", ""):
        parameters, body, _ = unwrap((), {"content-type": "tensor/base64"}, body)
    elif "shape" not in headers:
        raise WireError(f"The reply is {_describe(headers, body)}, not a tensor.")
    return parse_tensor(body, read_shape(parameters.get("shape")), dtype_name(parameters))


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
            raise WireError(f"The reply is {_describe(headers, body)}, not the {output} picture asked for.")
        return parse_picture(body)
    tensor = parse_tensor_reply(headers, body)
    channels = tensor.ndim == 4 and tensor.shape[3 if output == "uint8" else 1]
    if channels != 3 or (str(tensor.dtype) == "torch.uint8") != (output == "uint8"):
        raise WireError(
            f"The reply is a {str(tensor.dtype).removeprefix('torch.')} tensor of shape {list(tensor.shape)}, "
            f"not the picture asked for as {output}."
        )
    if output == "uint8":
        return pixels_to_image(tensor)
    return tensor.float() * 2.0 - 1.0 if output == "unit" else tensor.float()


def _describe(headers: Mapping[str, str], body: bytes) -> str:
    """What a reply is, in a few words for a person."""
    kind = headers.get("content-type", "").split(";")[0].strip().lower()
    if not body:
        return "empty"
    if kind == "text/html" or body.lstrip()[:1] == b"<":
        return "a web page"
    if sniff(body) in PICTURE_TYPES:
        return f"a {sniff(body)} picture"
    return f"{len(body)} bytes of type {kind[:60]}" if kind else f"{len(body)} bytes of an unknown type"


def pack_timing(stages: Mapping[str, float]) -> str:
    """Seconds a stage as a `Server-Timing` header, which counts milliseconds."""
    return ", ".join(f"{name};dur={seconds * 1000:.3f}" for name, seconds in stages.items())


def pack_computed(dtype: str, overflowed: Sequence[str] = ()) -> str:
    """The number format a result was computed in, and those that overflowed before it, as one header."""
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
