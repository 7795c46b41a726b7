"""Mode "remote": a VAE somewhere else, over the Hybrid Inference protocol."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import requests
import torch

from backend import wire
from backend.errors import RemoteRefusedError, RemoteReplyError, UserError, WireError
from backend.job import LOSSLESS, Transfer
from backend.models import LatentSpec
from backend.remote.client import Answer, Caller
from backend.remote.net import redact_url, shared_session
from backend.remote.parts import in_parts
from backend.report import Traffic
from backend.token import Token
from backend.vae.base import check_image, check_latents

MAX_SIDE = 2048
"""What the known endpoints take in one request: 2048 × 2048 pixels."""

_MIN_SIDE = 128
"""Parts are not made smaller than this, in pixels: an endpoint that refuses them refuses something else."""
_OUTPUTS: dict[Transfer, wire.Output] = {
    "uint8": "uint8",
    "float32": "pt",
    "float16": "pt",
    "png": "png",
    "jpg": "jpg",
}


@dataclass(frozen=True)
class _Sent:
    answer: Answer
    where: str


class Remote:
    """Encodes and decodes at two URLs; either may be None if it is not used. After a call `traffic` tells its cost.

    Args:
        spec: what the model's latents mean; it is said in every request.
        session: requests' session to use; by default the process's own, with kept connections.
        timeout: seconds for one call altogether, retries included.
        token: sent as a bearer token; a plain string goes to the hosts of these two URLs, and it is never logged.
        stop: setting it ends a call with `Cancelled`, and the server sees the connection close.
        notify: gets a sentence whenever the wait has a reason worth telling.
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
        notify: Callable[[str], None] = lambda _: None,
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
        self.computed: tuple[str, tuple[str, ...]] | None = None
        """The number format that the endpoint says it computed in, and those that overflowed before."""
        if isinstance(token, str):
            token = Token.bound_to(token, encode_url, decode_url)
        self.caller = Caller(session or shared_session(), timeout, token, stop, notify, request_id=request_id)

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
        """`work` on the whole or, over the endpoint's cap, on parts; halved again if it still says "too large"."""
        self._forget()
        most = self.max_side
        longest = max(tensor.shape[2:]) * pixels
        while True:
            try:
                if longest <= most:
                    return work(tensor)
                result, parts = in_parts(tensor, work, most // pixels, unit=unit, factor=factor)
            except RemoteRefusedError as error:
                if error.status != 413 or min(most, longest) // 2 < _MIN_SIDE:
                    raise
                most = min(most, longest) // 2 // self.spec.downscale * self.spec.downscale
                continue
            assert self.traffic is not None
            self.traffic = replace(self.traffic, parts=parts)
            return result

    def _forget(self) -> None:
        self.traffic = None
        self.computed = None

    def _encode_part(self, image: torch.Tensor) -> torch.Tensor:
        request = wire.EncodeRequest(image.float().cpu(), self.scaling)
        # A file holds one picture; and servers other than ours know uint8 pictures as PNG only.
        transfer = self.transfer
        if image.shape[0] > 1:
            transfer = "float32"
        elif transfer == "uint8":
            transfer = "png"
        message = wire.pack_encode_request(request, transfer)
        batch, _, height, width = image.shape
        factor = self.spec.downscale
        expected = (batch, self.spec.channels, height // factor, width // factor)
        most = 4 * batch * expected[1] * expected[2] * expected[3] + 65536
        sent = self._post(self.encode_url, "encode", message, most, transfer)
        latents = self._read(sent, lambda: wire.parse_tensor_reply(sent.answer.headers, sent.answer.body))
        if tuple(latents.shape) != expected or not latents.is_floating_point():
            raise RemoteReplyError(
                f"The endpoint at {sent.where} sent latents of shape {list(latents.shape)}, "
                f"but this model's have {list(expected)}.",
                "It serves another model's VAE; check its address.",
                url=sent.where,
                request_id=sent.answer.request_id,
            )
        return self._finite(latents.float(), sent)

    def _decode_part(self, latents: torch.Tensor) -> torch.Tensor:
        batch, _, height, width = latents.shape
        transfer = self.transfer if batch == 1 or self.transfer not in ("png", "jpg") else "uint8"
        output = _OUTPUTS[transfer]
        # A float reply has the dtype of the latents sent, so what is sent decides it.
        sent_latents = latents.half() if transfer == "float16" else latents
        message = wire.pack_decode_request(wire.DecodeRequest(sent_latents, self.scaling, output))
        factor = self.spec.downscale
        expected = (batch, 3, height * factor, width * factor)
        most = 4 * batch * 3 * expected[2] * expected[3] + 65536
        sent = self._post(self.decode_url, "decode", message, most, transfer)
        image = self._read(
            sent, lambda: wire.parse_decode_reply(sent.answer.headers, sent.answer.body, output)
        )
        if tuple(image.shape) != expected:
            raise RemoteReplyError(
                f"The endpoint at {sent.where} sent a picture of {image.shape[3]} × {image.shape[2]} pixels, "
                f"but {expected[3]} × {expected[2]} were asked for.",
                "It serves another model's VAE; check its address.",
                url=sent.where,
                request_id=sent.answer.request_id,
            )
        # Pixels of eight bits are finite and in range by nature.
        return image if output in ("uint8", "png", "jpg") else self._finite(image, sent).clamp_(-1.0, 1.0)

    def _post(
        self, url: str | None, action: str, message: wire.HttpRequest, most_bytes: int, transfer: Transfer
    ) -> _Sent:
        if url is None:
            raise UserError(f"No endpoint is set that could {action}.", "Give one, or choose another mode.")
        answer = self.caller.post(url, message, most_bytes)
        timing = wire.parse_timing(answer.headers.get("server-timing", ""))
        traffic = Traffic(
            bytes_sent=len(message.body),
            bytes_received=len(answer.body),
            server_seconds=sum(timing.values()) if timing else None,
            requests=answer.attempts,
            transfer=transfer,
            lossless=LOSSLESS[transfer],
        )
        self.traffic = traffic if self.traffic is None else self.traffic.plus(traffic)
        self.computed = wire.parse_computed(answer.headers.get("x-vae-dtype", ""))
        return _Sent(answer, redact_url(url))

    def _read(self, sent: _Sent, parse: Callable[[], torch.Tensor]) -> torch.Tensor:
        try:
            return parse()
        except (WireError, UserError) as error:
            raise RemoteReplyError(
                f"The answer of {sent.where} cannot be used. {error}",
                "It may not be a VAE endpoint; your latents are kept, so another place can be tried.",
                url=sent.where,
                request_id=sent.answer.request_id,
            ) from error

    def _finite(self, tensor: torch.Tensor, sent: _Sent) -> torch.Tensor:
        if bool(torch.isfinite(tensor).all()):
            return tensor
        raise RemoteReplyError(
            f"The endpoint at {sent.where} sent NaN or infinite values.",
            "Its VAE overflows in its number format; your latents are kept, so another place can be tried.",
            url=sent.where,
            request_id=sent.answer.request_id,
        )
