"""A client's requests, packed and parsed."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from backend.dtypes import dtype_name
from backend.errors import UnsupportedTypeError, WireError
from backend.message import Message
from backend.report import Direction
from backend.wire.json_body import read_json
from backend.wire.parameters import (
    CONFIGURED,
    RAW,
    SHAPE_HINT,
    Scaling,
    choice,
    flag,
    merge_query,
    read_dtype,
    read_shape,
    scaling_of,
    scaling_query,
    side_length,
)
from backend.wire.pictures import (
    PICTURE_TYPES,
    image_to_pixels,
    pack_picture,
    parse_picture,
    pixels_to_image,
    sniff,
)
from backend.wire.tensors import DTYPES, pack_tensor, parse_tensor, unpack_latents

if TYPE_CHECKING:
    import torch

Output = Literal["jpg", "png", "pt", "uint8", "unit"]
"""What a decode answers: a picture file; `pt` float NCHW in [-1, 1]; `uint8` NHWC in 0..255 (diffusers'
`partial_postprocess`); `unit` float NCHW in [0, 1] (diffusers' `pil` with a processor)."""
OUTPUTS: tuple[Output, ...] = ("jpg", "png", "pt", "uint8", "unit")


Dialect = Literal["binary", "base64"]


@dataclass(frozen=True)
class HttpRequest:
    """One HTTP request without its address. `query` keeps repeated keys; header names are lower-case."""

    query: tuple[tuple[str, str], ...]
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class DecodeRequest:
    """Latents (B, C, h, w), unpacked, any floating dtype, and the form the picture should come back in."""

    latents: torch.Tensor
    scaling: Scaling = CONFIGURED
    output: Output = "jpg"
    base64_reply: bool = False


@dataclass(frozen=True)
class EncodeRequest:
    """An image float32 (B, 3, H, W) in [-1, 1], and how the latents that come back should be scaled."""

    image: torch.Tensor
    scaling: Scaling = RAW
    base64_reply: bool = False


@dataclass(frozen=True)
class Peek:
    """What a request's parameters say before its body is there; None is unknown so far."""

    batch: int | None = None
    height: int | None = None
    """Of the latents for a decode, of the picture for an encode."""
    width: int | None = None
    body_bytes: int | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict, repr=False)


def pack_decode_request(request: DecodeRequest, dialect: Dialect = "binary") -> HttpRequest:
    """What a client posts to have latents decoded; `base64` is the legacy way, parameters in the body."""
    latents = request.latents
    query = [("shape", str(side)) for side in latents.shape]
    query += [("dtype", dtype_name(latents.dtype)), *scaling_query(request.scaling)]
    tensor_type = "tensor/base64" if request.base64_reply else "tensor/binary"
    if request.output in ("jpg", "png"):
        query += [("output_type", "pil"), ("image_format", request.output)]
        accept = PICTURE_TYPES[request.output]
    else:
        query += [
            ("output_type", "pil" if request.output == "unit" else "pt"),
            ("partial_postprocess", str(request.output == "uint8")),
        ]
        accept = tensor_type
    return wrap(query, {"accept": accept}, pack_tensor(latents), "tensor/binary", dialect)


def parse_decode_request(
    query: Iterable[tuple[str, str]], headers: Mapping[str, str], body: bytes
) -> DecodeRequest:
    """Inverse of `pack_decode_request`, for every dialect.

    Raises:
        WireError: a parameter or body that makes no sense; UnsupportedTypeError: a body of another kind.
    """
    parameters, raw, legacy = unwrap(query, headers, body)
    if "shape" not in parameters:
        if sniff(raw):
            raise UnsupportedTypeError(
                "Pictures are encoded, not decoded; this address takes latents.",
                "Post the picture to …/encode.",
            )
        raise WireError("The shape of the latents is missing.", SHAPE_HINT)
    shape, dtype = read_shape(parameters["shape"]), read_dtype(parameters)
    output, base64_reply = _decode_output(parameters, headers, legacy_body=legacy)
    scaling = scaling_of(parameters, legacy=legacy or _is_first_generation(parameters))
    peek = _peek_latents(parameters, shape, dtype)
    latents = parse_tensor(raw, shape, dtype)
    _require_finite(latents, Message("The latents sent contain NaN or infinite values."))
    if len(shape) == 3:
        assert peek.height is not None and peek.width is not None
        latents = unpack_latents(latents, peek.height * 8, peek.width * 8)
    return DecodeRequest(latents, scaling, output, base64_reply)


def peek_decode(query: Iterable[tuple[str, str]], headers: Mapping[str, str]) -> Peek:
    """What the query says about a decode, checked; all None if the parameters may come in the body.

    Raises:
        WireError: parameters that make no sense.
    """
    parameters = merge_query(query)
    if "shape" not in parameters:
        if "dtype" in parameters and not may_be_json(headers, parameters):
            raise WireError("The shape of the latents is missing.", SHAPE_HINT)
        return Peek(parameters=parameters)
    shape, dtype = read_shape(parameters["shape"]), read_dtype(parameters)
    _decode_output(parameters, headers, legacy_body=False)
    scaling_of(parameters, legacy=False)
    return _peek_latents(parameters, shape, dtype)


def _peek_latents(parameters: Mapping[str, Any], shape: tuple[int, ...], dtype: str) -> Peek:
    size = math.prod(shape) * DTYPES[dtype]
    height, width = side_length(parameters, "height"), side_length(parameters, "width")
    if len(shape) == 4:
        return Peek(shape[0], shape[2], shape[3], size, parameters)
    if len(shape) != 3:
        raise WireError(
            "Latents have 4 dimensions (batch, channels, height, width), or 3 when packed; these have {count}.",
            Message("Videos are not served here.") if len(shape) == 5 else "",
            count=len(shape),
        )
    if height is None or width is None:
        raise WireError(
            "Packed latents need height and width.", "Send the picture's size in pixels with them."
        )
    batch, tokens, features = shape
    rows, columns = height // 16, width // 16
    if tokens != rows * columns or features % 4:
        raise WireError(
            "Packed latents for {width}x{height} pixels have {expected} tokens of 4 values a channel, "
            "these have {tokens} of {features}.",
            width=width,
            height=height,
            expected=rows * columns,
            tokens=tokens,
            features=features,
        )
    return Peek(batch, rows * 2, columns * 2, size, parameters)


def _decode_output(
    parameters: Mapping[str, Any], headers: Mapping[str, str], *, legacy_body: bool
) -> tuple[Output, bool]:
    """The form of the reply and whether it is base64. Tensors asked for by `Accept` beat `output_type=pil`."""
    accept = headers.get("accept", "")
    kind = choice(parameters, "output_type", ("pil", "pt", "mp4"), "pil")
    picture = choice(
        parameters, "image_format", ("jpg", "jpeg", "png"), "png" if "image/png" in accept else "jpg"
    )
    partial = flag(parameters, "partial_postprocess")
    if kind == "mp4":
        raise WireError("This VAE makes pictures, not videos.", "Ask for output_type pil or pt.")
    base64_reply = "tensor/base64" in accept or parameters.get("output_tensor_type") == "base64"
    if legacy_body and "tensor/binary" not in accept and parameters.get("output_tensor_type") != "binary":
        base64_reply = True
    if kind == "pt":
        return ("uint8" if partial else "pt"), base64_reply
    if "tensor/" in accept:
        return "unit", base64_reply
    return ("png" if picture == "png" else "jpg"), False


def pack_encode_request(
    request: EncodeRequest,
    transfer: Literal["png", "jpg", "uint8", "float32", "float16"],
    dialect: Dialect = "binary",
) -> HttpRequest:
    """What a client posts to have a picture encoded. `png` and `uint8` are lossless for 8-bit pictures."""
    import torch

    query = scaling_query(request.scaling) if request.scaling != RAW else []
    headers = {"accept": "tensor/base64"} if request.base64_reply else {"accept": "tensor/binary"}
    if transfer in ("png", "jpg"):
        kind: Literal["png", "jpg"] = "png" if transfer == "png" else "jpg"
        return wrap(query, headers, pack_picture(request.image, kind), PICTURE_TYPES[kind], dialect)
    tensor = (
        image_to_pixels(request.image) if transfer == "uint8" else request.image.to(getattr(torch, transfer))
    )
    query += [("shape", str(side)) for side in tensor.shape]
    query += [("dtype", transfer)]
    return wrap(query, headers, pack_tensor(tensor), "tensor/binary", dialect)


def parse_encode_request(
    query: Iterable[tuple[str, str]],
    headers: Mapping[str, str],
    body: bytes,
    *,
    multiple: int = 1,
    max_pixels: int | None = None,
) -> EncodeRequest:
    """Inverse of `pack_encode_request`, for every dialect; `multiple` and `max_pixels` as in `parse_picture`.

    A float tensor is NCHW in [-1, 1]; a uint8 one NCHW or NHWC in 0..255.

    Raises:
        WireError, UnsupportedTypeError, TooLargeError: as the parts say.
    """
    parameters, raw, legacy = unwrap(query, headers, body)
    scaling = scaling_of(parameters, legacy=False)
    base64_reply = (
        "tensor/base64" in headers.get("accept", "") or parameters.get("output_tensor_type") == "base64"
    )
    base64_reply = base64_reply or (legacy and "tensor/binary" not in headers.get("accept", ""))
    if "shape" not in parameters:
        if not raw:
            raise WireError("The body is empty.", "Send a picture, or a tensor with its shape and dtype.")
        return EncodeRequest(parse_picture(raw, multiple, max_pixels), scaling, base64_reply)
    shape, dtype = read_shape(parameters["shape"]), read_dtype(parameters)
    _peek_image(parameters, shape, dtype)
    tensor = parse_tensor(raw, shape, dtype)
    tensor = tensor if tensor.ndim == 4 else tensor.unsqueeze(0)
    if dtype == "uint8":
        pixels = tensor.permute(0, 2, 3, 1) if tensor.shape[1] == 3 else tensor
        return EncodeRequest(pixels_to_image(pixels), scaling, base64_reply)
    _require_finite(tensor, Message("The image sent contain NaN or infinite values."))
    return EncodeRequest(tensor.float(), scaling, base64_reply)


def peek_encode(query: Iterable[tuple[str, str]]) -> Peek:
    """What the query says about an encode, checked; sizes are None for a picture file.

    Raises:
        WireError: parameters that make no sense.
    """
    parameters = merge_query(query)
    scaling_of(parameters, legacy=False)
    if "shape" not in parameters:
        return Peek(parameters=parameters)
    shape, dtype = read_shape(parameters["shape"]), read_dtype(parameters)
    return _peek_image(parameters, shape, dtype)


def _peek_image(parameters: Mapping[str, Any], shape: tuple[int, ...], dtype: str) -> Peek:
    four = shape if len(shape) == 4 else (1, *shape)
    size = math.prod(shape) * DTYPES[dtype]
    if len(four) == 4 and four[1] == 3:
        return Peek(four[0], four[2], four[3], size, parameters)
    if len(four) == 4 and four[3] == 3 and dtype == "uint8":
        return Peek(four[0], four[1], four[2], size, parameters)
    raise WireError(
        "An image tensor has shape (batch, 3, height, width), this one has {shape}.",
        "uint8 may also be (batch, height, width, 3).",
        shape=list(shape),
    )


def guess_direction(
    query: Iterable[tuple[str, str]], headers: Mapping[str, str], body: bytes, channels: int
) -> Direction:
    """The direction of a request to a bare address: a picture, or a tensor of 3 channels, is to be encoded.

    `channels`: of the served VAE's latents.

    Raises:
        WireError: neither a picture nor a tensor's shape.
    """
    parameters, raw, _ = unwrap(query, headers, body)
    if "shape" not in parameters:
        if raw and sniff(raw) is None:
            raise WireError("The body is no picture, and the shape of a tensor is missing.", SHAPE_HINT)
        return "encode"
    shape = read_shape(parameters["shape"])
    if "output_type" in parameters or (len(shape) == 4 and shape[1] == channels) or len(shape) == 3:
        return "decode"
    return "encode"


def _is_first_generation(parameters: Mapping[str, Any]) -> bool:
    """Clients written for the first servers name the tensor type, today's diffusers does not."""
    return "input_tensor_type" in parameters or "output_tensor_type" in parameters


def _require_finite(tensor: torch.Tensor, complaint: Message) -> None:
    import torch

    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise WireError(complaint, "They were broken before they were sent.")


def wrap(
    query: list[tuple[str, str]], headers: dict[str, str], raw: bytes, content_type: str, dialect: Dialect
) -> HttpRequest:
    if dialect == "binary":
        return HttpRequest(tuple(query), {**headers, "content-type": content_type}, raw)
    merged = merge_query(query)
    inputs = base64.b64encode(raw).decode("ascii")
    document = {"inputs": inputs, "parameters": merged}
    return HttpRequest((), {**headers, "content-type": "tensor/base64"}, json.dumps(document).encode("ascii"))


def may_be_json(headers: Mapping[str, str], parameters: Mapping[str, Any]) -> bool:
    """Whether a request announces the legacy base64 body, whose length is not the tensor's."""
    kind = headers.get("content-type", "")
    return "base64" in kind or "json" in kind or parameters.get("input_tensor_type") == "base64"


def unwrap(
    query: Iterable[tuple[str, str]], headers: Mapping[str, str], body: bytes
) -> tuple[dict[str, Any], bytes, bool]:
    """(parameters of query and body, raw bytes, whether they came as base64). The body's parameters win."""
    parameters = merge_query(query)
    kind = headers.get("content-type", "")
    if kind.startswith(("multipart/", "text/", "video/", "audio/")):
        raise UnsupportedTypeError(
            "A body of type {mime} is not served.",
            "Send the bytes themselves as the body.",
            mime=kind.split(";")[0][:60],
        )
    # No raw body without a shape starts with a brace.
    is_json = may_be_json(headers, parameters) or ("shape" not in parameters and body.lstrip()[:1] == b"{")
    if not is_json:
        return parameters, body, False
    text: Any = body
    if body.lstrip()[:1] in (b"{", b'"'):
        document = read_json(body)
        if isinstance(document, dict):
            more = document.get("parameters") or {}
            if not isinstance(more, dict):
                raise WireError("“parameters” in the body must be an object.")
            parameters.update({str(key): value for key, value in more.items() if value is not None})
            text = document.get("inputs")
        else:
            text = document
    if not isinstance(text, str | bytes):
        raise WireError("The body has no “inputs” with base64 text.")
    try:
        return parameters, base64.b64decode(text, validate=True), True
    except (binascii.Error, ValueError):
        raise WireError("“inputs” is not base64.") from None
