"""The checks of encoding: every form of picture, of tensor, and of scaling."""

from __future__ import annotations

import base64
import json
from functools import partial

import torch
from PIL import Image

from backend import wire
from backend.conformance.check import Check, register
from backend.conformance.target import COLUMNS, ROWS, Target, file, near, repeated, wrong_shape
from backend.errors import MismatchError, SkippedCheck
from backend.message import Message

CHECKS: list[Check] = []
check = partial(register, CHECKS)


@check("encode", "a PNG without a type gives raw latents, shape and dtype in headers")
def _encode_png(target: Target) -> None:
    latents = target.encoded()
    expected = [1, target.spec.channels, ROWS, COLUMNS]
    if list(latents.shape) != expected or not bool(torch.isfinite(latents).all()):
        raise wrong_shape(latents, expected)


@check("encode", "the same picture gives the same latents")
def _mean(target: Target) -> None:
    near(
        target.tensor("encode", file(target, "PNG"), [], {}).float(),
        target.encoded(),
        1e-3,
        Message("latents"),
    )


@check("encode", "JPEG")
def _encode_jpeg(target: Target) -> None:
    near(target.tensor("encode", file(target, "JPEG"), [], {}), target.encoded(), 2.0)


@check("encode", "WebP")
def _encode_webp(target: Target) -> None:
    near(
        target.tensor("encode", file(target, "WEBP"), [], {"Content-Type": "image/webp"}),
        target.encoded(),
        0.05,
    )


@check("encode", "scaling_factor and shift_factor")
def _encode_scaled(target: Target) -> None:
    latents = target.tensor(
        "encode", file(target, "PNG"), [("scaling_factor", "0.5"), ("shift_factor", "0.25")], {}
    )
    near(latents, target.scaled(target.encoded(), 0.5, 0.25), 0.02)


for _name, _tolerance in (("float32", 0.02), ("float16", 0.1), ("bfloat16", 1.0), ("uint8", 0.02)):

    @check("encode", f"a raw {_name} tensor")
    def _encode_tensor(target: Target, dtype: str = _name, tolerance: float = _tolerance) -> None:
        nchw = target.pixels.permute(0, 3, 1, 2).contiguous()
        tensor = nchw if dtype == "uint8" else target.image.to(getattr(torch, dtype))
        query = [*repeated(tensor.shape), ("dtype", dtype)]
        near(target.tensor("encode", wire.pack_tensor(tensor), query, {}), target.encoded(), tolerance)


@check("encode", "a batch of tensors")
def _encode_batch(target: Target) -> None:
    two = torch.cat([target.image, target.image.flip(3)])
    latents = target.tensor("encode", wire.pack_tensor(two), [*repeated(two.shape), ("dtype", "float32")], {})
    near(latents[:1], target.encoded(), 0.02)
    if latents.shape[0] != 2:
        raise MismatchError("{count} latents for 2 pictures", count=latents.shape[0])


@check("encode", "legacy base64")
def _encode_base64(target: Target) -> None:
    document = json.dumps({"inputs": base64.b64encode(file(target, "PNG")).decode()}).encode()
    headers = {"Content-Type": "tensor/base64", "Accept": "tensor/base64"}
    near(target.tensor("encode", document, [], headers), target.encoded(), 1e-3)


@check("encode", "diffusers' remote_encode, picture and tensor")
def _diffusers_encode(target: Target) -> None:
    from diffusers.utils import remote_utils

    if target.token:
        raise SkippedCheck("diffusers' client sends no token")
    assert target.encode_url is not None
    picture = Image.fromarray(target.pixels[0].numpy())
    near(remote_utils.remote_encode(target.encode_url, picture), target.encoded(), 1e-3)
    near(remote_utils.remote_encode(target.encode_url, target.image), target.encoded(), 0.02)
