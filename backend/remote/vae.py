"""Mode "remote": a VAE somewhere else, over the Hybrid Inference protocol."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import requests
import torch

from backend import wire
from backend.errors import RemoteRefusedError, RemoteReplyError, UserError, WireError
from backend.job import LOSSLESS, Transfer
from backend.message import Message
from backend.models import LatentSpec
from backend.remote.client import EndpointClient, HttpReply
from backend.remote.net import shared_session
from backend.remote.parts import in_parts
from backend.report import Direction, Traffic
from backend.token import Token
from backend.vae.base import check_image, check_latents

MAX_SIDE = 2048
"""What the known endpoints take in one request: 2048 × 2048 pixels."""

NO_URL: dict[Direction, Message] = {
    "encode": Message("No endpoint is set that could encode."),
    "decode": Message("No endpoint is set that could decode."),
}

_WRONG_VAE = Message("It serves another model's VAE; check its address.")
_OVERFLOWS = Message(
    "Its VAE overflows in its number format; your latents are kept, so another place can be tried."
)

_MIN_SIDE = 128
"""Parts are not made smaller than this, in pixels: an endpoint that refuses them refuses something else."""
_EXTRA_BYTES = 2**16
"""What a reply may have beyond its tensor as float32."""
_OUTPUTS: dict[Transfer, wire.Output] = {
    "uint8": "uint8",
    "float32": "pt",
    "float16": "pt",
    "png": "png",
    "jpg": "jpg",
}


class RemoteVae:
    """A VAE that encodes and decodes at two URLs; either may be None if it is not used.

    Args:
        spec: what the model's latents mean; sent with every request.
        session: requests' session to use; by default the process's own, with kept connections.
        timeout: seconds for one call altogether, retries included.
        token: sent as a bearer token, and never logged; a plain string goes to the origins of these two URLs.
        stop: setting it ends a call with `Cancelled`, and the server sees the connection close.
        notify: gets a message before each wait for another try.
        transfer: the form pictures travel in.
        max_side: a picture with a longer side is sent in overlapping parts, in pixels.
        request_id: sent with every request, for the endpoint's log.
    """

    mode: ClassVar[str] = "remote"

    def __init__(
        self,
        spec: LatentSpec,
        encode_url: str | None,
        decode_url: str | None,
        *,
        session: requests.Session | None = None,
        timeout: float = 120.0,
        token: str | Token | None = None,
        stop: threading.Event | None = None,
        notify: Callable[[Message], None] = lambda _: None,
        transfer: Transfer = "uint8",
        max_side: int = MAX_SIDE,
        request_id: str | None = None,
    ) -> None:
        self.spec = spec
        self.encode_url = encode_url
        self.decode_url = decode_url
        self.transfer = transfer
        self.max_side = max_side
        self.traffic: Traffic | None = None
        """What the latest call sent and received."""
        self.computed: tuple[str, tuple[str, ...]] | None = None
        """The dtype that the endpoint says it computed in, and those that overflowed before."""
        if isinstance(token, str):
            token = Token.bound_to(token, encode_url, decode_url)
        self.client = EndpointClient(
            session or shared_session(), timeout, token, stop, notify, request_id=request_id
        )

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) in [-1, 1] to scaled latents (B, C, H/f, W/f), float32 on the CPU.

        Raises:
            UserError: wrong shape, or no URL. RemoteError: the endpoint could not do it. Cancelled: stopped.
        """
        check_image(image, self.spec)
        factor = self.spec.downscale
        return self._in_parts(image, self._encode_part, unit=factor, factor=1 / factor, pixels=1)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Scaled latents (B, C, h, w) to a float32 image (B, 3, h*f, w*f) in [-1, 1] on the CPU.

        Raises:
            UserError: wrong shape, or no URL. RemoteError: the endpoint could not do it. Cancelled: stopped.
        """
        check_latents(latents, self.spec)
        factor = self.spec.downscale
        return self._in_parts(latents, self._decode_part, unit=1, factor=factor, pixels=factor)

    def url(self, direction: Direction) -> str | None:
        return self.encode_url if direction == "encode" else self.decode_url

    @property
    def scaling(self) -> wire.Scaling:
        return wire.Scaling(self.spec.scaling_factor, self.spec.shift_factor or 0.0)

    def _in_parts(
        self,
        tensor: torch.Tensor,
        work: Callable[[torch.Tensor], torch.Tensor],
        *,
        unit: int,
        factor: float,
        pixels: int,
    ) -> torch.Tensor:
        """`work` on the whole or, over `max_side`, on parts; halved as long as the endpoint says "too large"."""
        self._reset()
        max_side, longest = self.max_side, max(tensor.shape[2:]) * pixels
        while True:
            try:
                if longest <= max_side:
                    return work(tensor)
                result, parts = in_parts(tensor, work, max_side // pixels, unit=unit, factor=factor)
            except RemoteRefusedError as error:
                half = min(max_side, longest) // 2
                if error.status != 413 or half < _MIN_SIDE:
                    raise
                max_side = half // self.spec.downscale * self.spec.downscale
                continue
            assert self.traffic is not None
            self.traffic = replace(self.traffic, parts=parts)
            return result

    def _reset(self) -> None:
        self.traffic = None
        self.computed = None

    def _encode_part(self, image: torch.Tensor) -> torch.Tensor:
        # A file holds one picture; and servers other than ours know uint8 pictures as PNG only.
        transfer = self.transfer
        if image.shape[0] > 1:
            transfer = "float32"
        elif transfer == "uint8":
            transfer = "png"
        request = wire.pack_encode_request(wire.EncodeRequest(image.float().cpu(), self.scaling), transfer)
        batch, _, height, width = image.shape
        factor = self.spec.downscale
        expected = (batch, self.spec.channels, height // factor, width // factor)
        reply = self._post("encode", request, expected, transfer)
        latents = _parse(reply, lambda: wire.parse_tensor_reply(reply.headers, reply.body))
        problem = Message(
            "The endpoint at {where} sent latents of shape {shape}, but this model's have {expected}.",
            where=reply.url,
            shape=list(latents.shape),
            expected=list(expected),
        )
        _expect(tuple(latents.shape) == expected and latents.is_floating_point(), reply, problem, _WRONG_VAE)
        return _finite(latents.float(), reply)

    def _decode_part(self, latents: torch.Tensor) -> torch.Tensor:
        batch, _, height, width = latents.shape
        transfer = self.transfer if batch == 1 or self.transfer not in ("png", "jpg") else "uint8"
        output = _OUTPUTS[transfer]
        # A float reply has the dtype of the latents sent, so what is sent decides it.
        sent_latents = latents.half() if transfer == "float16" else latents
        request = wire.pack_decode_request(wire.DecodeRequest(sent_latents, self.scaling, output))
        factor = self.spec.downscale
        expected = (batch, 3, height * factor, width * factor)
        reply = self._post("decode", request, expected, transfer)
        image = _parse(reply, lambda: wire.parse_decode_reply(reply.headers, reply.body, output))
        problem = Message(
            "The endpoint at {where} sent a picture of {width} × {height} pixels, "
            "but {expected_width} × {expected_height} were asked for.",
            where=reply.url,
            width=image.shape[3],
            height=image.shape[2],
            expected_width=expected[3],
            expected_height=expected[2],
        )
        _expect(tuple(image.shape) == expected, reply, problem, _WRONG_VAE)
        # Pixels of eight bits are finite and in range by nature.
        return image if output in ("uint8", "png", "jpg") else _finite(image, reply).clamp_(-1.0, 1.0)

    def _post(
        self, direction: Direction, request: wire.HttpRequest, expected: tuple[int, ...], transfer: Transfer
    ) -> HttpReply:
        """The reply to `request`, to hold a tensor of the shape `expected`; adds to `traffic`."""
        url = self.url(direction)
        if url is None:
            raise UserError(NO_URL[direction], "Give one, or choose another mode.")
        reply = self.client.post(url, request, 4 * math.prod(expected) + _EXTRA_BYTES)
        timing = wire.parse_timing(reply.headers.get("server-timing", ""))
        traffic = Traffic(
            bytes_sent=len(request.body),
            bytes_received=len(reply.body),
            server_seconds=sum(timing.values()) if timing else None,
            requests=reply.attempts,
            transfer=transfer,
            lossless=LOSSLESS[transfer],
        )
        self.traffic = traffic if self.traffic is None else self.traffic.plus(traffic)
        self.computed = wire.parse_computed(reply.headers.get("x-vae-dtype", ""))
        return reply


def _parse(reply: HttpReply, parse: Callable[[], torch.Tensor]) -> torch.Tensor:
    try:
        return parse()
    except (WireError, UserError) as error:
        raise RemoteReplyError(
            "The answer of {where} cannot be used. {error}",
            "It may not be a VAE endpoint; your latents are kept, so another place can be tried.",
            url=reply.url,
            request_id=reply.request_id,
            where=reply.url,
            error=error.message,
        ) from error


def _expect(condition: bool, reply: HttpReply, problem: Message, advice: Message) -> None:
    if not condition:
        raise RemoteReplyError(problem, advice, url=reply.url, request_id=reply.request_id)


def _finite(tensor: torch.Tensor, reply: HttpReply) -> torch.Tensor:
    problem = Message("The endpoint at {where} sent NaN or infinite values.", where=reply.url)
    _expect(bool(torch.isfinite(tensor).all()), reply, problem, _OVERFLOWS)
    return tensor
