"""The checks of errors: JSON with the right status, and the endpoint works on after all of them."""

from __future__ import annotations

from functools import partial

import requests
import torch

from backend.conformance.check import Check, register
from backend.conformance.target import COLUMNS, ROWS, Target, file, near, plain_decode, repeated
from backend.errors import MismatchError

CHECKS: list[Check] = []
check = partial(register, CHECKS)


def _refused(response: requests.Response, *statuses: int) -> None:
    status = response.status_code
    if status not in statuses:
        expected = " or ".join(map(str, statuses))
        raise MismatchError("status {status} instead of {expected}", status=status, expected=expected)
    try:
        document = response.json()
    except ValueError:
        raise MismatchError(
            "{status} is not JSON: {text!r}", status=status, text=response.text[:60]
        ) from None
    if not isinstance(document, dict) or not isinstance(document.get("error"), str):
        raise MismatchError("{status} has no “error”: {document}", status=status, document=str(document))


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
    latents = torch.zeros(1, target.spec.channels + 1, ROWS, COLUMNS)
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
