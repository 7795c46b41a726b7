"""The endpoint under test, its reference answers, and what the checks have in common."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import requests
import torch
from PIL import Image

from backend import wire
from backend.dtypes import dtype_name
from backend.errors import MismatchError
from backend.message import Message
from backend.models import LatentSpec
from backend.remote.net import new_session
from backend.report import Direction

ROWS, COLUMNS = 4, 6
"""Of the latents that are sent; even, so that they can be packed, and not square."""


@dataclass
class Target:
    """The endpoint under test and its reference answers."""

    encode_url: str | None
    decode_url: str | None
    spec: LatentSpec
    token: str | None = field(default=None, repr=False)
    session: requests.Session = field(default_factory=new_session)
    timeout: float = 60.0
    fixed_scale: bool = False
    """The VAE takes the denoiser's latents as they are, whatever factors are sent (AutoencoderTiny)."""
    _references: dict[str, torch.Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(5)
        # float16 values, so that every dtype but bfloat16 carries the very same numbers.
        self.latents = torch.randn(1, self.spec.channels, ROWS, COLUMNS, generator=generator).half().float()
        side = self.spec.downscale
        small = torch.rand(1, 3, ROWS, COLUMNS, generator=generator)
        smooth = torch.nn.functional.interpolate(small, size=(ROWS * side, COLUMNS * side), mode="bilinear")
        self.pixels = (smooth.permute(0, 2, 3, 1) * 255).round().to(torch.uint8)
        self.image = wire.pixels_to_image(self.pixels)

    @property
    def factors(self) -> list[tuple[str, str]]:
        pairs = [("scaling_factor", repr(self.spec.scaling_factor))]
        return [*pairs, ("shift_factor", repr(self.spec.shift_factor))] if self.spec.shift_factor else pairs

    def unscaled(self, latents: torch.Tensor) -> torch.Tensor:
        if self.fixed_scale:
            return latents
        return self.spec.unscale(latents)

    def scaled(self, raw: torch.Tensor, factor: float, shift: float) -> torch.Tensor:
        return raw if self.fixed_scale else (raw - shift) * factor

    def post(
        self,
        direction: Direction,
        body: bytes,
        query: Sequence[tuple[str, str]] | str,
        headers: dict[str, str],
    ) -> requests.Response:
        url = self.encode_url if direction == "encode" else self.decode_url
        assert url is not None
        if self.token:
            headers = {**headers, "Authorization": f"Bearer {self.token}"}
        if isinstance(query, str):
            url, query = f"{url}?{query}", []
        return self.session.post(url, params=list(query), data=body, headers=headers, timeout=self.timeout)

    def tensor(self, direction: Direction, *call: Any) -> torch.Tensor:
        return parse(good(self.post(direction, *call)))

    def decoded(self) -> torch.Tensor:
        """The reference: float32 latents, explicit factors, `pt`."""
        if "decode" not in self._references:
            self._references["decode"] = self.tensor("decode", *plain_decode(self))
        return self._references["decode"]

    def encoded(self) -> torch.Tensor:
        """The reference: a PNG without type, no factors, so raw latents."""
        if "encode" not in self._references:
            self._references["encode"] = self.tensor("encode", file(self, "PNG"), [], {}).float()
        return self._references["encode"]


def good(response: requests.Response) -> requests.Response:
    """The response itself.

    Raises:
        MismatchError: any status but 200, or an error in JSON that calls itself a success.
    """
    is_error = "json" in response.headers.get("content-type", "") and b'"error"' in response.content[:200]
    if response.status_code != 200 or is_error:
        raise MismatchError("status {status}: {text}", status=response.status_code, text=response.text[:120])
    return response


def parse(response: requests.Response) -> torch.Tensor:
    """The tensor of a reply, in the shape and dtype that it came in."""
    return wire.parse_tensor_reply(
        {key.lower(): value for key, value in response.headers.items()}, response.content
    )


def near(got: torch.Tensor, expected: torch.Tensor, tolerance: float, what: Message | None = None) -> None:
    """Raise MismatchError unless shapes are equal and no two values are more than `tolerance` apart."""
    if got.shape != expected.shape:
        raise wrong_shape(got, expected.shape)
    apart = float((got.float() - expected.float()).abs().max())
    if not apart <= tolerance:
        raise MismatchError("{what} are up to {apart:.3g} apart", what=what or Message("values"), apart=apart)


def wrong_shape(got: torch.Tensor, expected: Sequence[int]) -> MismatchError:
    return MismatchError(
        "shape {shape} instead of {expected}", shape=list(got.shape), expected=list(expected)
    )


def repeated(shape: Sequence[int]) -> list[tuple[str, str]]:
    return [("shape", str(side)) for side in shape]


def plain_decode(
    target: Target, latents: torch.Tensor | None = None, **more: str
) -> tuple[bytes, Any, dict[str, str]]:
    """The common form of today's diffusers, `pt` unless `more` says otherwise."""
    latents = target.latents if latents is None else latents
    options = {"output_type": "pt", "image_format": "jpg", "partial_postprocess": "False", **more}
    dtype = ("dtype", dtype_name(latents.dtype))
    query = [*repeated(latents.shape), dtype, *target.factors, *options.items()]
    return wire.pack_tensor(latents), query, {"Content-Type": "tensor/binary", "Accept": "tensor/binary"}


def file(target: Target, kind: str) -> bytes:
    """The target's picture as a file: "PNG", "JPEG" or "WEBP"."""
    buffer = io.BytesIO()
    known: dict[str, dict[str, Any]] = {
        "PNG": {},
        "JPEG": {"quality": 100, "subsampling": 0},
        "WEBP": {"lossless": True},
    }
    Image.fromarray(target.pixels[0].numpy()).save(buffer, format=kind, **known[kind])
    return buffer.getvalue()
