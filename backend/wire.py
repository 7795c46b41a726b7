"""The Hybrid Inference protocol: pure bytes ⇄ tensors, used by the endpoint and by the remote client alike.

It is the protocol of `diffusers.utils.remote_utils` and of the public servers it was made for, in every dialect
that a known client speaks (docs/endpoint.md has the table). `pack_*` and `parse_*` are pairs, inverse to each other:

    EncodeRequest, DecodeRequest   ⇄  Message (query, headers, body)
    a tensor                       ⇄  its little-endian bytes, with its shape and dtype told elsewhere
    an image tensor                ⇄  JPEG, PNG, or one of three tensor forms
    TensorReply                    ⇄  headers and body, binary or base64 in JSON

Nothing here reads or writes a socket or a file. torch is imported by the functions that touch tensors, because the
routes are built before the first page is up. `peek_decode` and `peek_encode` read parameters alone, so that a server
can refuse a request before its body arrives.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qsl

from PIL import Image

from backend.errors import TooLargeError, UnsupportedTypeError, WireError
from backend.images import to_rgb, to_tensor

if TYPE_CHECKING:
    import torch

DTYPES: dict[str, int] = {"float16": 2, "float32": 4, "bfloat16": 2, "uint8": 1}
"""What may travel, with the bytes of one number."""

MAX_DIMENSION = 2**20

Output = Literal["jpg", "png", "pt", "uint8", "unit"]
"""What a decode answers: a picture file; `pt` float NCHW in [-1, 1]; `uint8` NHWC in 0..255 (diffusers'
`partial_postprocess`); `unit` float NCHW in [0, 1] (diffusers' `pil` with a processor)."""
OUTPUTS: tuple[Output, ...] = ("jpg", "png", "pt", "uint8", "unit")

Dialect = Literal["binary", "base64"]

PICTURE_TYPES = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
JPEG_QUALITY = 95


@dataclass(frozen=True)
class Scaling:
    """What the sender's latents mean: `(z - shift) * factor` of the VAE's raw `z`. `own` is the server's choice."""

    factor: float = 1.0
    shift: float = 0.0
    own: bool = False


RAW = Scaling()
"""Latents as the VAE itself has them."""
OWN = Scaling(own=True)
"""Scaled by the factors in the server's own VAE config."""


@dataclass(frozen=True)
class Message:
    """One HTTP request without its address. `query` keeps repeated keys; header names are lower-case."""

    query: tuple[tuple[str, str], ...]
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class DecodeRequest:
    """Latents (B, C, h, w), unpacked, any floating dtype, and the form the picture should come back in."""

    latents: torch.Tensor
    scaling: Scaling = OWN
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
    """What a request's parameters say before its body is there; None is "not said yet"."""

    batch: int | None = None
    height: int | None = None
    """Of the latents for a decode, of the picture for an encode."""
    width: int | None = None
    body_bytes: int | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict, repr=False)


# -- parameters ------------------------------------------------------------------------------------------------


def parse_query(text: str) -> tuple[tuple[str, str], ...]:
    """A URL's query as pairs, in order, blanks kept."""
    try:
        return tuple(parse_qsl(text, keep_blank_values=True, max_num_fields=200))
    except ValueError:
        raise WireError("The query has too many parameters.") from None


def merge_query(query: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Pairs as a dict: a key given once is a string, a repeated one a list; empty and `None` count as not given."""
    merged: dict[str, Any] = {}
    for key, value in query:
        if value in ("", "None", "null"):
            continue
        before = merged.get(key)
        if before is None:
            merged[key] = value
        elif isinstance(before, list):
            before.append(value)
        else:
            merged[key] = [before, value]
    return merged


def read_shape(value: Any) -> tuple[int, ...]:
    """A shape in any dialect: `[1, 4, 64, 64]`, the same as JSON text, "1,4,64,64", or a list of numerals."""
    if isinstance(value, str):
        text = value.strip()
        try:
            value = json.loads(text) if text.startswith("[") else [part for part in text.split(",") if part]
        except (ValueError, RecursionError):
            raise WireError(f"The shape “{text[:80]}” cannot be read.", _SHAPE_HINT) from None
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= 8:
        raise WireError("The shape must be a list of numbers.", _SHAPE_HINT)
    sides = []
    for item in value:
        number = _integer(item)
        if number is None or not 1 <= number <= MAX_DIMENSION:
            raise WireError(
                f"“{str(item)[:40]}” is not a side of a shape: each must be a whole number from 1 on.",
                _SHAPE_HINT,
            )
        sides.append(number)
    return tuple(sides)


_SHAPE_HINT = "Send it as a repeated key, for example shape=1&shape=4&shape=64&shape=64."


def _integer(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    text = str(value).strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 12 else None


def _number(parameters: Mapping[str, Any], name: str) -> float | None:
    value = parameters.get(name)
    if value is None:
        return None
    try:
        number = float(value) if isinstance(value, str | int | float) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number) or abs(number) > 1e6:
        raise WireError(f"{name} must be a number, not “{str(value)[:40]}”.")
    return number


def _flag(parameters: Mapping[str, Any], name: str) -> bool | None:
    """True and False as requests, httpx, JSON and people write them."""
    value = parameters.get(name)
    if value is None or isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in ("true", "1", "yes"):
        return True
    if text in ("false", "0", "no"):
        return False
    raise WireError(f"{name} must be true or false, not “{text[:40]}”.")


def _choice(parameters: Mapping[str, Any], name: str, choices: tuple[str, ...], default: str) -> str:
    value = parameters.get(name, default)
    if value not in choices:
        raise WireError(f"{name} must be one of {', '.join(choices)}, not “{str(value)[:40]}”.")
    return str(value)


def _dtype(parameters: Mapping[str, Any]) -> str:
    value = parameters.get("dtype")
    if value is None:
        raise WireError("The dtype of the tensor is missing.", f"Known: {', '.join(DTYPES)}.")
    name = str(value).removeprefix("torch.")
    if name not in DTYPES:
        raise WireError(f"The dtype “{name[:40]}” is not served.", f"Known: {', '.join(DTYPES)}.")
    return name


def _side(parameters: Mapping[str, Any], name: str) -> int | None:
    value = parameters.get(name)
    if value is None:
        return None
    number = _integer(value)
    if number is None or not 1 <= number <= MAX_DIMENSION:
        raise WireError(f"{name} must be a whole number of pixels, not “{str(value)[:40]}”.")
    return number


def _scaling(parameters: Mapping[str, Any], *, legacy: bool) -> Scaling:
    """Which scaling a request means.

    An explicit `do_scaling=False` wins, then factors, then an explicit True. With none of them today's diffusers
    means "no scaling" (it drops a False), while the clients of the first servers, known by `input_tensor_type` or
    by base64, rely on a default of True.
    """
    wanted = _flag(parameters, "do_scaling")
    factor = _number(parameters, "scaling_factor")
    shift = _number(parameters, "shift_factor")
    if factor == 0:
        raise WireError("scaling_factor must not be 0.")
    if wanted is False:
        return RAW
    if factor is not None or shift is not None:
        return Scaling(1.0 if factor is None else factor, shift or 0.0)
    return OWN if wanted or legacy else RAW


def _scaling_query(scaling: Scaling) -> list[tuple[str, str]]:
    """The parameters that say `scaling` to old servers and new ones alike: never by leaving something out."""
    if scaling.own:
        return [("do_scaling", "True")]
    if scaling == RAW:
        return [("do_scaling", "False")]
    query = [("scaling_factor", repr(scaling.factor))]
    if scaling.shift:
        query.append(("shift_factor", repr(scaling.shift)))
    return query


# -- tensors ---------------------------------------------------------------------------------------------------


def pack_tensor(tensor: torch.Tensor) -> bytes:
    """The tensor's numbers as little-endian bytes, row by row. Its dtype must be one of `DTYPES`."""
    import torch

    if str(tensor.dtype).removeprefix("torch.") not in DTYPES:
        raise WireError(f"A tensor of {tensor.dtype} cannot travel.", f"Known: {', '.join(DTYPES)}.")
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
            f"A {dtype} tensor of shape {list(shape)} has {expected} bytes, but {len(body)} came.",
            "Check shape and dtype, and that the whole body was sent.",
        )
    if not body:
        raise WireError("The body is empty.")
    # A copy, because torch wants memory it may write to.
    return torch.frombuffer(bytearray(body), dtype=getattr(torch, dtype)).reshape(shape)


def unpack_latents(latents: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Flux's packed tokens (B, h/2 * w/2, 4C) to (B, C, h, w), for a picture of height x width pixels.

    As `FluxPipeline._unpack_latents`: h and w are 2 * (pixels // 16).
    """
    rows, columns = height // 16, width // 16
    batch, _, features = latents.shape
    grid = latents.reshape(batch, rows, columns, features // 4, 2, 2)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(batch, features // 4, rows * 2, columns * 2)


def pack_latents(latents: torch.Tensor) -> torch.Tensor:
    """(B, C, h, w), h and w even, to Flux's packed tokens (B, h/2 * w/2, 4C). Inverse of `unpack_latents`."""
    batch, channels, height, width = latents.shape
    if height % 2 or width % 2:
        raise WireError(f"Latents of {height}x{width} cannot be packed two by two.")
    grid = latents.reshape(batch, channels, height // 2, 2, width // 2, 2)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(batch, height // 2 * (width // 2), channels * 4)


# -- pictures --------------------------------------------------------------------------------------------------


def sniff(body: bytes) -> str | None:
    """jpg, png or webp by the first bytes; "other" for a picture type that is not served; None for no picture."""
    if body.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if body.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if body[:4] == b"RIFF" and body[8:12] == b"WEBP":
        return "webp"
    if body.startswith((b"GIF87a", b"GIF89a", b"BM", b"II*\x00", b"MM\x00*")) or body[4:12] in (
        b"ftypavif",
        b"ftypheic",
    ):
        return "other"
    return None


def picture_size(body: bytes) -> tuple[int, int]:
    """(width, height) of a picture file from its header alone, nothing decoded.

    Raises:
        UnsupportedTypeError: not PNG, JPEG or WebP. WireError: a header that cannot be read.
    """
    with _open_picture(body) as picture:
        return picture.size


def parse_picture(body: bytes, multiple: int = 1, max_pixels: int | None = None) -> torch.Tensor:
    """A picture file as float32 (1, 3, H, W) in [-1, 1], turned upright, on white where it is transparent.

    Sides are resized down to whole multiples of `multiple`, as diffusers' VaeImageProcessor does.

    Raises:
        UnsupportedTypeError: not PNG, JPEG or WebP. TooLargeError: more than `max_pixels`.
        WireError: broken or truncated.
    """
    try:
        with _open_picture(body) as picture:
            if max_pixels is not None and picture.width * picture.height > max_pixels:
                raise TooLargeError(
                    f"The picture has {picture.width}x{picture.height} pixels, more than the {max_pixels} allowed."
                )
            rgb = to_rgb(picture)
    except (OSError, ValueError, SyntaxError) as error:
        raise WireError("The picture is broken or was cut off on its way.") from error
    width, height = (side // multiple * multiple for side in rgb.size)
    if not width or not height:
        raise WireError(f"The picture is smaller than {multiple}x{multiple} pixels.")
    if (width, height) != rgb.size:
        rgb = rgb.resize((width, height), Image.Resampling.LANCZOS)
    return to_tensor(rgb)


def _open_picture(body: bytes) -> Image.Image:
    if sniff(body) not in PICTURE_TYPES:
        raise UnsupportedTypeError(
            "The body is no picture that can be read here.",
            "Send PNG, JPEG or WebP, or a tensor with its shape.",
        )
    try:
        return Image.open(io.BytesIO(body), formats=("PNG", "JPEG", "WEBP"))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooLargeError("The picture has more pixels than anything here takes.") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise WireError("The picture is broken or was cut off on its way.") from error


def pixels_to_image(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 (B, H, W, 3) to float32 (B, 3, H, W) in [-1, 1], bit for bit as `images.to_tensor` does."""
    return (pixels.permute(0, 3, 1, 2).float() / 127.5 - 1.0).contiguous()


def image_to_pixels(image: torch.Tensor) -> torch.Tensor:
    """Float (B, 3, H, W) in [-1, 1] to uint8 (B, H, W, 3), rounded; inverse of `pixels_to_image`."""
    import torch

    unit = (image.detach().cpu().float() * 0.5 + 0.5).clamp(0.0, 1.0)
    return (unit.permute(0, 2, 3, 1) * 255.0).round().to(torch.uint8).contiguous()


def pack_picture(image: torch.Tensor, kind: Literal["jpg", "png"]) -> bytes:
    """One image (1, 3, H, W) in [-1, 1] as a JPEG or PNG file.

    Raises:
        WireError: a batch; one file holds one picture.
    """
    refuse_batch(image.shape[0], kind)
    picture = Image.fromarray(image_to_pixels(image)[0].numpy())
    buffer = io.BytesIO()
    if kind == "jpg":
        picture.save(buffer, format="JPEG", quality=JPEG_QUALITY)
    else:
        # Level 1 is three times as quick as the default for a few percent more bytes.
        picture.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def refuse_batch(batch: int, kind: str) -> None:
    """Raise WireError unless `batch` is 1: one file holds one picture."""
    if batch != 1:
        raise WireError(
            f"A batch of {batch} pictures does not fit one {kind} file.",
            "Ask for output_type=pt, with partial_postprocess=true for the smallest transfer.",
        )


# -- requests --------------------------------------------------------------------------------------------------


def pack_decode_request(request: DecodeRequest, dialect: Dialect = "binary") -> Message:
    """What a client posts to have latents decoded; `base64` is the legacy way, parameters in the body."""
    latents = request.latents
    query = [("shape", str(side)) for side in latents.shape]
    query += [("dtype", str(latents.dtype).removeprefix("torch.")), *_scaling_query(request.scaling)]
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
    return _packed(query, {"accept": accept}, pack_tensor(latents), "tensor/binary", dialect)


def parse_decode_request(
    query: Iterable[tuple[str, str]], headers: Mapping[str, str], body: bytes
) -> DecodeRequest:
    """Inverse of `pack_decode_request`, for every dialect.

    Raises:
        WireError: a parameter or body that makes no sense; UnsupportedTypeError: a body of another kind.
    """
    parameters, raw, legacy = _unpacked(query, headers, body)
    if "shape" not in parameters:
        if sniff(raw):
            raise UnsupportedTypeError(
                "Pictures are encoded, not decoded; this address takes latents.",
                "Post the picture to …/encode.",
            )
        raise WireError("The shape of the latents is missing.", _SHAPE_HINT)
    shape, dtype = read_shape(parameters["shape"]), _dtype(parameters)
    output, base64_reply = _decode_output(parameters, headers, legacy_body=legacy)
    scaling = _scaling(parameters, legacy=legacy or _is_first_generation(parameters))
    peek = _peek_latents(parameters, shape, dtype)
    latents = parse_tensor(raw, shape, dtype)
    _require_finite(latents, "latents")
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
            raise WireError("The shape of the latents is missing.", _SHAPE_HINT)
        return Peek(parameters=parameters)
    shape, dtype = read_shape(parameters["shape"]), _dtype(parameters)
    _decode_output(parameters, headers, legacy_body=False)
    _scaling(parameters, legacy=False)
    return _peek_latents(parameters, shape, dtype)


def _peek_latents(parameters: Mapping[str, Any], shape: tuple[int, ...], dtype: str) -> Peek:
    size = math.prod(shape) * DTYPES[dtype]
    height, width = _side(parameters, "height"), _side(parameters, "width")
    if len(shape) == 4:
        return Peek(shape[0], shape[2], shape[3], size, parameters)
    if len(shape) != 3:
        hint = "Videos are not served here." if len(shape) == 5 else ""
        raise WireError(
            f"Latents have 4 dimensions (batch, channels, height, width), or 3 when packed; these have {len(shape)}.",
            hint,
        )
    if height is None or width is None:
        raise WireError(
            "Packed latents need height and width.", "Send the picture's size in pixels with them."
        )
    batch, tokens, features = shape
    rows, columns = height // 16, width // 16
    if tokens != rows * columns or features % 4:
        raise WireError(
            f"Packed latents for {width}x{height} pixels have {rows * columns} tokens of 4 values a channel, "
            f"these have {tokens} of {features}."
        )
    return Peek(batch, rows * 2, columns * 2, size, parameters)


def _decode_output(
    parameters: Mapping[str, Any], headers: Mapping[str, str], *, legacy_body: bool
) -> tuple[Output, bool]:
    """The form of the reply and whether it is base64. Tensors asked for by `Accept` beat `output_type=pil`."""
    accept = headers.get("accept", "")
    kind = _choice(parameters, "output_type", ("pil", "pt", "mp4"), "pil")
    picture = _choice(
        parameters, "image_format", ("jpg", "jpeg", "png"), "png" if "image/png" in accept else "jpg"
    )
    partial = _flag(parameters, "partial_postprocess")
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
) -> Message:
    """What a client posts to have a picture encoded. `png` and `uint8` are lossless for 8-bit pictures."""
    import torch

    query = _scaling_query(request.scaling) if request.scaling != RAW else []
    headers = {"accept": "tensor/base64"} if request.base64_reply else {"accept": "tensor/binary"}
    if transfer in ("png", "jpg"):
        kind: Literal["png", "jpg"] = "png" if transfer == "png" else "jpg"
        return _packed(query, headers, pack_picture(request.image, kind), PICTURE_TYPES[kind], dialect)
    tensor = (
        image_to_pixels(request.image) if transfer == "uint8" else request.image.to(getattr(torch, transfer))
    )
    query += [("shape", str(side)) for side in tensor.shape]
    query += [("dtype", transfer)]
    return _packed(query, headers, pack_tensor(tensor), "tensor/binary", dialect)


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
    parameters, raw, legacy = _unpacked(query, headers, body)
    scaling = _scaling(parameters, legacy=False)
    base64_reply = (
        "tensor/base64" in headers.get("accept", "") or parameters.get("output_tensor_type") == "base64"
    )
    base64_reply = base64_reply or (legacy and "tensor/binary" not in headers.get("accept", ""))
    if "shape" not in parameters:
        if not raw:
            raise WireError("The body is empty.", "Send a picture, or a tensor with its shape and dtype.")
        return EncodeRequest(parse_picture(raw, multiple, max_pixels), scaling, base64_reply)
    shape, dtype = read_shape(parameters["shape"]), _dtype(parameters)
    _peek_image(parameters, shape, dtype)
    tensor = parse_tensor(raw, shape, dtype)
    tensor = tensor if tensor.ndim == 4 else tensor.unsqueeze(0)
    if dtype == "uint8":
        pixels = tensor.permute(0, 2, 3, 1) if tensor.shape[1] == 3 else tensor
        return EncodeRequest(pixels_to_image(pixels), scaling, base64_reply)
    _require_finite(tensor, "image")
    return EncodeRequest(tensor.float(), scaling, base64_reply)


def peek_encode(query: Iterable[tuple[str, str]]) -> Peek:
    """What the query says about an encode, checked; sizes are None for a picture file.

    Raises:
        WireError: parameters that make no sense.
    """
    parameters = merge_query(query)
    _scaling(parameters, legacy=False)
    if "shape" not in parameters:
        return Peek(parameters=parameters)
    shape, dtype = read_shape(parameters["shape"]), _dtype(parameters)
    return _peek_image(parameters, shape, dtype)


def _peek_image(parameters: Mapping[str, Any], shape: tuple[int, ...], dtype: str) -> Peek:
    four = shape if len(shape) == 4 else (1, *shape)
    size = math.prod(shape) * DTYPES[dtype]
    if len(four) == 4 and four[1] == 3:
        return Peek(four[0], four[2], four[3], size, parameters)
    if len(four) == 4 and four[3] == 3 and dtype == "uint8":
        return Peek(four[0], four[1], four[2], size, parameters)
    raise WireError(
        f"An image tensor has shape (batch, 3, height, width), this one has {list(shape)}.",
        "uint8 may also be (batch, height, width, 3).",
    )


def guess_action(
    query: Iterable[tuple[str, str]], headers: Mapping[str, str], body: bytes, channels: int
) -> Literal["encode", "decode"]:
    """Which way a request to a bare address goes: a picture, or a tensor of 3 channels, is to be encoded.

    Raises:
        WireError: nothing to tell it by.
    """
    parameters, raw, _ = _unpacked(query, headers, body)
    if "shape" not in parameters:
        if raw and sniff(raw) is None:
            raise WireError("The body is no picture, and the shape of a tensor is missing.", _SHAPE_HINT)
        return "encode"
    shape = read_shape(parameters["shape"])
    if "output_type" in parameters or (len(shape) == 4 and shape[1] == channels) or len(shape) == 3:
        return "decode"
    return "encode"


def _is_first_generation(parameters: Mapping[str, Any]) -> bool:
    """Clients written for the first servers name the tensor type, today's diffusers does not."""
    return "input_tensor_type" in parameters or "output_tensor_type" in parameters


def _require_finite(tensor: torch.Tensor, what: str) -> None:
    import torch

    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise WireError(
            f"The {what} sent contain NaN or infinite values.", "They were broken before they were sent."
        )


def _packed(
    query: list[tuple[str, str]], headers: dict[str, str], raw: bytes, content_type: str, dialect: Dialect
) -> Message:
    if dialect == "binary":
        return Message(tuple(query), {**headers, "content-type": content_type}, raw)
    merged = merge_query(query)
    inputs = base64.b64encode(raw).decode("ascii")
    document = {"inputs": inputs, "parameters": merged}
    return Message((), {**headers, "content-type": "tensor/base64"}, json.dumps(document).encode("ascii"))


def may_be_json(headers: Mapping[str, str], parameters: Mapping[str, Any]) -> bool:
    """Whether a request announces the legacy base64 body, whose length is not the tensor's."""
    kind = headers.get("content-type", "")
    return "base64" in kind or "json" in kind or parameters.get("input_tensor_type") == "base64"


def _unpacked(
    query: Iterable[tuple[str, str]], headers: Mapping[str, str], body: bytes
) -> tuple[dict[str, Any], bytes, bool]:
    """(parameters of query and body, raw bytes, whether they came as base64). The body's parameters win."""
    parameters = merge_query(query)
    kind = headers.get("content-type", "")
    if kind.startswith(("multipart/", "text/", "video/", "audio/")):
        raise UnsupportedTypeError(
            f"A body of type {kind.split(';')[0][:60]} is not served.",
            "Send the bytes themselves as the body.",
        )
    # Nobody who sends raw bytes without a shape starts them with a brace.
    is_json = may_be_json(headers, parameters) or ("shape" not in parameters and body.lstrip()[:1] == b"{")
    if not is_json:
        return parameters, body, False
    text: Any = body
    if body.lstrip()[:1] in (b"{", b'"'):
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            raise WireError("The body is no JSON, or was cut off on its way.") from None
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


# -- replies ---------------------------------------------------------------------------------------------------


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
        parameters, body, _ = _unpacked((), {"content-type": "tensor/base64"}, body)
    elif "shape" not in headers:
        raise WireError(f"The reply is {_describe(headers, body)}, not a tensor.")
    return parse_tensor(body, read_shape(parameters.get("shape")), _dtype(parameters))


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
