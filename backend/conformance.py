"""Does an endpoint speak Hybrid Inference, in every dialect of the known clients? `python -m backend.conformance URL`

URL is …/vae/NAME of a Latent Relay server, or the bare address of any other; `--encode` and `--decode` name the two
directions apart, as the public endpoints have them. Every check compares with one plain float decode or encode of the
same server, so nothing about its weights must be known. The same checks are this project's own test suite.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import requests
import torch
from PIL import Image

from backend import wire
from backend.models import LatentSpec
from backend.remote.net import new_session

TOKEN_VARIABLE = "LATENT_RELAY_TOKEN"
_ROWS, _COLUMNS = 4, 6
"""Of the latents that are sent; even, so that they can be packed, and not square."""


class MismatchError(AssertionError):
    """What came is not what the protocol says."""


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
        self.latents = torch.randn(1, self.spec.channels, _ROWS, _COLUMNS, generator=generator).half().float()
        side = self.spec.downscale
        small = torch.rand(1, 3, _ROWS, _COLUMNS, generator=generator)
        smooth = torch.nn.functional.interpolate(small, size=(_ROWS * side, _COLUMNS * side), mode="bilinear")
        self.pixels = (smooth.permute(0, 2, 3, 1) * 255).round().to(torch.uint8)
        self.image = wire.pixels_to_image(self.pixels)

    @property
    def factors(self) -> list[tuple[str, str]]:
        pairs = [("scaling_factor", repr(self.spec.scaling_factor))]
        return [*pairs, ("shift_factor", repr(self.spec.shift_factor))] if self.spec.shift_factor else pairs

    def unscaled(self, latents: torch.Tensor) -> torch.Tensor:
        if self.fixed_scale:
            return latents
        return latents / self.spec.scaling_factor + (self.spec.shift_factor or 0.0)

    def scaled(self, raw: torch.Tensor, factor: float, shift: float) -> torch.Tensor:
        return raw if self.fixed_scale else (raw - shift) * factor

    def post(
        self, direction: str, body: bytes, query: Sequence[tuple[str, str]] | str, headers: dict[str, str]
    ) -> requests.Response:
        url = self.encode_url if direction == "encode" else self.decode_url
        assert url is not None
        if self.token:
            headers = {**headers, "Authorization": f"Bearer {self.token}"}
        if isinstance(query, str):
            url, query = f"{url}?{query}", []
        return self.session.post(url, params=list(query), data=body, headers=headers, timeout=self.timeout)

    def tensor(self, direction: str, *call: Any) -> torch.Tensor:
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
    if response.status_code != 200:
        raise MismatchError(f"status {response.status_code}: {response.text[:120]}")
    return response


def parse(response: requests.Response) -> torch.Tensor:
    return wire.parse_tensor_reply(
        {key.lower(): value for key, value in response.headers.items()}, response.content
    )


def near(got: torch.Tensor, expected: torch.Tensor, tolerance: float, what: str = "values") -> None:
    if got.shape != expected.shape:
        raise MismatchError(f"shape {list(got.shape)} instead of {list(expected.shape)}")
    apart = float((got.float() - expected.float()).abs().max())
    if not apart <= tolerance:
        raise MismatchError(f"{what} are up to {apart:.3g} apart")


def repeated(shape: Sequence[int]) -> list[tuple[str, str]]:
    return [("shape", str(side)) for side in shape]


def plain_decode(
    target: Target, latents: torch.Tensor | None = None, **more: str
) -> tuple[bytes, Any, dict[str, str]]:
    """The common form of today's diffusers, `pt` unless `more` says otherwise."""
    latents = target.latents if latents is None else latents
    options = {"output_type": "pt", "image_format": "jpg", "partial_postprocess": "False", **more}
    dtype = ("dtype", str(latents.dtype).removeprefix("torch."))
    query = [*repeated(latents.shape), dtype, *target.factors, *options.items()]
    return wire.pack_tensor(latents), query, {"Content-Type": "tensor/binary", "Accept": "tensor/binary"}


def file(target: Target, kind: str) -> bytes:
    buffer = io.BytesIO()
    known: dict[str, dict[str, Any]] = {
        "PNG": {},
        "JPEG": {"quality": 100, "subsampling": 0},
        "WEBP": {"lossless": True},
    }
    Image.fromarray(target.pixels[0].numpy()).save(buffer, format=kind, **known[kind])
    return buffer.getvalue()


Run = Callable[[Target], None]


@dataclass(frozen=True)
class Check:
    name: str
    direction: str
    run: Run


CHECKS: list[Check] = []


def check(direction: str, name: str) -> Callable[[Run], Run]:
    """Register a check; it returns if all is well and raises `MismatchError` with what came if not."""

    def register(run: Run) -> Run:
        CHECKS.append(Check(name, direction, run))
        return run

    return register


# -- decode ----------------------------------------------------------------------------------------------------


@check("decode", "pt is float, NCHW, in [-1, 1]")
def _pt(target: Target) -> None:
    image = target.decoded()
    wanted = [1, 3, _ROWS * target.spec.downscale, _COLUMNS * target.spec.downscale]
    if list(image.shape) != wanted or not image.is_floating_point():
        raise MismatchError(f"{image.dtype} of shape {list(image.shape)}")
    if float(image.abs().max()) > 1.3:
        raise MismatchError(f"values up to {float(image.abs().max()):.2f}")


@check("decode", "pt with partial_postprocess is uint8, NHWC")
def _partial(target: Target) -> None:
    pixels = target.tensor("decode", *plain_decode(target, partial_postprocess="True"))
    near(pixels, wire.image_to_pixels(target.decoded()), 1.0)
    if pixels.dtype != torch.uint8:
        raise MismatchError(f"dtype {pixels.dtype}")


@check("decode", "pil with a processor is float, NCHW, in [0, 1]")
def _unit(target: Target) -> None:
    image = target.tensor("decode", *plain_decode(target, output_type="pil"))
    near(image, (target.decoded() / 2 + 0.5).clamp(0, 1), 0.01)


def _picture(target: Target, kind: str, mime: str, tolerance: float) -> None:
    body, query, headers = plain_decode(target, output_type="pil", image_format=kind)
    response = good(target.post("decode", body, query, {**headers, "Accept": mime}))
    if wire.sniff(response.content) != kind:
        raise MismatchError(f"not a {kind}: {response.content[:12]!r}")
    near(wire.parse_picture(response.content), target.decoded().clamp(-1, 1), tolerance)


@check("decode", "pil png")
def _png(target: Target) -> None:
    _picture(target, "png", "image/png", 0.02)


@check("decode", "pil jpg")
def _jpg(target: Target) -> None:
    _picture(target, "jpg", "image/jpeg", 1.0)


for _name, _tolerance in (("float16", 0.02), ("bfloat16", 0.3)):

    @check("decode", f"{_name} latents")
    def _half(target: Target, dtype: str = _name, tolerance: float = _tolerance) -> None:
        image = target.tensor("decode", *plain_decode(target, target.latents.to(getattr(torch, dtype))))
        near(image, target.decoded(), tolerance)


@check("decode", "uint8 latents")
def _uint8_latents(target: Target) -> None:
    latents = torch.ones(1, target.spec.channels, _ROWS, _COLUMNS, dtype=torch.uint8)
    near(
        target.tensor("decode", *plain_decode(target, latents)),
        target.tensor("decode", *plain_decode(target, latents.float())),
        0.02,
    )


@check("decode", "a batch")
def _batch(target: Target) -> None:
    two = torch.cat([target.latents, target.latents.flip(3)])
    image = target.tensor("decode", *plain_decode(target, two))
    near(image[:1], target.decoded(), 0.01)
    if image.shape[0] != 2:
        raise MismatchError(f"{image.shape[0]} pictures for 2")


@check("decode", "shape as a JSON list in one key")
def _json_shape(target: Target) -> None:
    body, query, headers = plain_decode(target)
    others = [pair for pair in query if pair[0] != "shape"]
    image = target.tensor(
        "decode", body, [("shape", json.dumps(list(target.latents.shape))), *others], headers
    )
    near(image, target.decoded(), 0.01)


@check("decode", "httpx: lower-case booleans, None as empty")
def _httpx(target: Target) -> None:
    body, query, headers = plain_decode(
        target, partial_postprocess="true", height="", width="", do_scaling=""
    )
    near(target.tensor("decode", body, query, headers), wire.image_to_pixels(target.decoded()), 1.0)


@check("decode", "packed latents with height and width")
def _packed(target: Target) -> None:
    packed = wire.pack_latents(target.latents)
    size = {"height": str(_ROWS * 8 + 5), "width": str(_COLUMNS * 8 + 15)}
    near(target.tensor("decode", *plain_decode(target, packed, **size)), target.decoded(), 0.01)


def _scaled(
    target: Target, latents: torch.Tensor, pairs: list[tuple[str, str]], expected: torch.Tensor
) -> None:
    body, query, headers = plain_decode(target, latents)
    without = [pair for pair in query if pair[0] not in ("scaling_factor", "shift_factor")]
    near(target.tensor("decode", body, [*without, *pairs], headers), expected, 0.02)


@check("decode", "do_scaling=True scales by the VAE's own factors")
def _own(target: Target) -> None:
    _scaled(target, target.latents, [("do_scaling", "True")], target.decoded())


@check("decode", "do_scaling=False does not scale")
def _raw(target: Target) -> None:
    _scaled(target, target.unscaled(target.latents), [("do_scaling", "False")], target.decoded())


@check("decode", "today's diffusers without scaling: nothing said means none")
def _nothing(target: Target) -> None:
    _scaled(target, target.unscaled(target.latents), [], target.decoded())


@check("decode", "first clients (input_tensor_type): nothing said means the VAE's own")
def _first(target: Target) -> None:
    _scaled(target, target.latents, [("input_tensor_type", "binary")], target.decoded())


@check("decode", "other factors")
def _others(target: Target) -> None:
    latents = target.scaled(target.unscaled(target.latents), 0.5, 0.25)
    _scaled(target, latents, [("scaling_factor", "0.5"), ("shift_factor", "0.25")], target.decoded())


def _legacy(target: Target, *, in_body: bool) -> None:
    body, query, _ = plain_decode(target)
    parameters: dict[str, Any] = {key: value for key, value in query if key != "shape"}
    parameters["shape"] = list(target.latents.shape)
    document: dict[str, Any] = {"inputs": base64.b64encode(body).decode()}
    if in_body:
        document["parameters"] = {**parameters, "partial_postprocess": False}
        query = []
    content_type = "application/json" if in_body else "tensor/base64"
    headers = {"Content-Type": content_type, "Accept": "tensor/base64"}
    response = good(target.post("decode", json.dumps(document).encode(), query, headers))
    reply = response.json()
    raw = base64.b64decode(reply["inputs"])
    told = reply["parameters"]
    near(wire.parse_tensor(raw, tuple(told["shape"]), told["dtype"]), target.decoded(), 0.01)


@check("decode", "legacy base64, parameters in the body")
def _legacy_body(target: Target) -> None:
    _legacy(target, in_body=True)


@check("decode", "legacy base64, parameters in the query")
def _legacy_query(target: Target) -> None:
    _legacy(target, in_body=False)


@check("decode", "diffusers' remote_decode, every output")
def _diffusers_decode(target: Target) -> None:
    from diffusers.image_processor import VaeImageProcessor
    from diffusers.utils import remote_utils

    if target.token:
        raise Skipped("diffusers' client sends no token")
    options: dict[str, Any] = {
        "scaling_factor": target.spec.scaling_factor,
        "shift_factor": target.spec.shift_factor,
    }
    expected = wire.image_to_pixels(target.decoded())[0]
    for more in (
        {"image_format": "png"},
        {"output_type": "pt", "processor": VaeImageProcessor()},
        {"output_type": "pt", "partial_postprocess": True},
        {"output_type": "pil", "processor": VaeImageProcessor()},
    ):
        assert target.decode_url is not None
        picture: Any = remote_utils.remote_decode(target.decode_url, target.latents, **options, **more)
        picture = picture[0] if isinstance(picture, list) else picture
        got = wire.image_to_pixels(wire.parse_picture(_as_png(picture)))[0]
        near(got, expected, 2.0, f"pixels with {sorted(more)}")


def _as_png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


# -- encode ----------------------------------------------------------------------------------------------------


@check("encode", "a PNG without a type gives raw latents, shape and dtype in headers")
def _encode_png(target: Target) -> None:
    latents = target.encoded()
    wanted = [1, target.spec.channels, _ROWS, _COLUMNS]
    if list(latents.shape) != wanted or not bool(torch.isfinite(latents).all()):
        raise MismatchError(f"shape {list(latents.shape)} instead of {wanted}")


@check("encode", "the same picture gives the same latents")
def _mean(target: Target) -> None:
    near(target.tensor("encode", file(target, "PNG"), [], {}).float(), target.encoded(), 1e-3, "latents")


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
        raise MismatchError(f"{latents.shape[0]} latents for 2 pictures")


@check("encode", "legacy base64")
def _encode_base64(target: Target) -> None:
    document = json.dumps({"inputs": base64.b64encode(file(target, "PNG")).decode()}).encode()
    headers = {"Content-Type": "tensor/base64", "Accept": "tensor/base64"}
    near(target.tensor("encode", document, [], headers), target.encoded(), 1e-3)


@check("encode", "diffusers' remote_encode, picture and tensor")
def _diffusers_encode(target: Target) -> None:
    from diffusers.utils import remote_utils

    if target.token:
        raise Skipped("diffusers' client sends no token")
    assert target.encode_url is not None
    picture = Image.fromarray(target.pixels[0].numpy())
    near(remote_utils.remote_encode(target.encode_url, picture), target.encoded(), 1e-3)
    near(remote_utils.remote_encode(target.encode_url, target.image), target.encoded(), 0.02)


# -- errors ----------------------------------------------------------------------------------------------------


def _refused(response: requests.Response, *statuses: int) -> None:
    if response.status_code not in statuses:
        raise MismatchError(f"status {response.status_code} instead of {' or '.join(map(str, statuses))}")
    try:
        said = response.json()
    except ValueError:
        raise MismatchError(f"{response.status_code} is not JSON: {response.text[:60]!r}") from None
    if not isinstance(said, dict) or not isinstance(said.get("error"), str):
        raise MismatchError(f"{response.status_code} has no “error”: {said}")


@check("decode", "error: a body of the wrong length is 400 in JSON")
def _short(target: Target) -> None:
    body, query, headers = plain_decode(target)
    _refused(target.post("decode", body[:-4], query, headers), 400)


@check("decode", "error: latents without a shape are 400 in JSON")
def _shapeless(target: Target) -> None:
    _refused(
        target.post("decode", b"\0" * 64, [("dtype", "float32")], {"Content-Type": "tensor/binary"}), 400
    )


@check("decode", "error: another model's channels are 400 in JSON")
def _channels(target: Target) -> None:
    latents = torch.zeros(1, target.spec.channels + 1, _ROWS, _COLUMNS)
    _refused(target.post("decode", *plain_decode(target, latents)), 400)


@check("decode", "error: a gigantic shape is 413 in JSON, before its body")
def _gigantic(target: Target) -> None:
    _, query, headers = plain_decode(target)
    others = [pair for pair in query if pair[0] != "shape"]
    shape = repeated((1, target.spec.channels, 99999, 99999))
    _refused(target.post("decode", b"", [*shape, *others], headers), 413)


@check("encode", "error: a GIF is 415 in JSON")
def _gif(target: Target) -> None:
    _refused(target.post("encode", b"GIF89a" + bytes(32), [], {}), 415)


@check("encode", "error: a truncated picture is 400 in JSON")
def _truncated(target: Target) -> None:
    body = file(target, "PNG")
    _refused(target.post("encode", body[: len(body) // 2], [], {}), 400)


@check("decode", "it lives on after all errors")
def _alive(target: Target) -> None:
    near(target.tensor("decode", *plain_decode(target)), target.decoded(), 0.01)


# -- running them ----------------------------------------------------------------------------------------------


class Skipped(Exception):  # noqa: N818 - no failure
    """A check that does not apply."""


@dataclass(frozen=True)
class Outcome:
    name: str
    direction: str
    verdict: str
    """ok, FAILED or skipped."""
    detail: str = ""


def run_check(target: Target, check: Check) -> Outcome:
    """One check's outcome; whatever the endpoint does is an outcome too."""
    if (target.encode_url if check.direction == "encode" else target.decode_url) is None:
        return Outcome(check.name, check.direction, "skipped", "no address given")
    try:
        check.run(target)
    except Skipped as reason:
        return Outcome(check.name, check.direction, "skipped", str(reason))
    except Exception as error:  # noqa: BLE001 - a stranger's server may cause anything, and that is the finding
        return Outcome(check.name, check.direction, "FAILED", f"{error}" or type(error).__name__)
    return Outcome(check.name, check.direction, "ok")


def look_up(url: str, token: str | None = None) -> tuple[str, str, dict[str, Any]]:
    """(encode URL, decode URL, description or {}) of an address that a person gave."""
    base = url.rstrip("/")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        document = new_session().get(base, headers=headers, timeout=10).json()
    except (requests.RequestException, ValueError):
        return base, base, {}
    if isinstance(document, dict) and len(document.get("vaes", ())) == 1:
        return f"{base}/", f"{base}/", document["vaes"][0]
    if isinstance(document, dict) and "channels" in document:
        return f"{base}/encode", f"{base}/decode", document
    return base, base, {}


def table(outcomes: Sequence[Outcome]) -> str:
    """The outcomes for a terminal."""
    width = max(len(outcome.name) for outcome in outcomes)
    lines = [
        f"{outcome.verdict:8}{outcome.direction:8}{outcome.name:{width}}  {outcome.detail[:100]}".rstrip()
        for outcome in outcomes
    ]
    counts = {
        verdict: sum(outcome.verdict == verdict for outcome in outcomes)
        for verdict in ("ok", "FAILED", "skipped")
    }
    return "\n".join([*lines, "", ", ".join(f"{count} {verdict}" for verdict, count in counts.items())])


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 1 if anything failed."""
    parser = argparse.ArgumentParser(
        prog="python -m backend.conformance",
        description="Check an endpoint against the Hybrid Inference protocol.",
        epilog=f"A bearer token is taken from the environment variable {TOKEN_VARIABLE}.",
    )
    parser.add_argument(
        "url", nargs="?", help="…/vae/NAME of a Latent Relay, or the bare address of another server"
    )
    parser.add_argument("--encode", metavar="URL", help="Where to encode, if it is a place of its own.")
    parser.add_argument("--decode", metavar="URL", help="Where to decode, if it is a place of its own.")
    parser.add_argument("--channels", type=int, help="Latent channels, if the endpoint does not tell. (4)")
    parser.add_argument("--downscale", type=int, help="Pixels a latent, likewise. (8)")
    parser.add_argument("--scaling-factor", type=float, help="Likewise. (0.18215)")
    parser.add_argument("--shift-factor", type=float, help="Likewise. (none)")
    options = parser.parse_args(arguments)
    token = os.environ.get(TOKEN_VARIABLE) or None
    encode, decode, told = look_up(options.url, token) if options.url else (None, None, {})
    if not (encode or options.encode or options.decode):
        parser.error("give an address")
    spec = LatentSpec(
        channels=options.channels or told.get("channels", 4),
        downscale=options.downscale or told.get("downscale", 8),
        scaling_factor=options.scaling_factor or told.get("scaling_factor", 0.18215),
        shift_factor=options.shift_factor or told.get("shift_factor"),
    )
    target = Target(
        options.encode or encode,
        options.decode or decode,
        spec,
        token,
        fixed_scale=told.get("fixed_scale", False),
    )
    outcomes = [run_check(target, check) for check in CHECKS]
    sys.stdout.write(table(outcomes) + "\n")
    return int(any(outcome.verdict == "FAILED" for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
