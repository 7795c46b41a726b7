"""What the query says, in every dialect: repeated keys, JSON lists, booleans and numbers as text."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from backend.errors import WireError
from backend.message import Message
from backend.wire.tensors import DTYPES

MAX_DIMENSION = 2**20


@dataclass(frozen=True)
class Scaling:
    """What the sender's latents mean: `(z - shift) * factor` of the VAE's raw `z`."""

    factor: float = 1.0
    shift: float = 0.0
    configured: bool = False
    """By the factors in the server's VAE config, whatever those are."""


RAW = Scaling()
"""Latents as the VAE itself has them."""
CONFIGURED = Scaling(configured=True)
"""Scaled by the factors in the server's VAE config."""


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
            raise WireError("The shape “{text}” cannot be read.", SHAPE_HINT, text=text[:80]) from None
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= 8:
        raise WireError("The shape must be a list of numbers.", SHAPE_HINT)
    sides = []
    for item in value:
        number = _integer(item)
        if number is None or not 1 <= number <= MAX_DIMENSION:
            raise WireError(
                "“{text}” is not a side of a shape: each must be a whole number from 1 on.",
                SHAPE_HINT,
                text=str(item)[:40],
            )
        sides.append(number)
    return tuple(sides)


SHAPE_HINT = Message("Send it as a repeated key, for example shape=1&shape=4&shape=64&shape=64.")


def _integer(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    text = str(value).strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 12 else None


def number(parameters: Mapping[str, Any], name: str) -> float | None:
    value = parameters.get(name)
    if value is None:
        return None
    try:
        number = float(value) if isinstance(value, str | int | float) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number) or abs(number) > 1e6:
        raise WireError("{name} must be a number, not “{text}”.", name=name, text=str(value)[:40])
    return number


def flag(parameters: Mapping[str, Any], name: str) -> bool | None:
    """True and False as requests, httpx, JSON and people write them."""
    value = parameters.get(name)
    if value is None or isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in ("true", "1", "yes"):
        return True
    if text in ("false", "0", "no"):
        return False
    raise WireError("{name} must be true or false, not “{text}”.", name=name, text=text[:40])


def choice(parameters: Mapping[str, Any], name: str, choices: tuple[str, ...], default: str) -> str:
    value = parameters.get(name, default)
    if value not in choices:
        raise WireError(
            "{name} must be one of {choices}, not “{text}”.",
            name=name,
            choices=", ".join(choices),
            text=str(value)[:40],
        )
    return str(value)


def read_dtype(parameters: Mapping[str, Any]) -> str:
    """The dtype of a tensor sent, by its plain name, one of `DTYPES`."""
    value = parameters.get("dtype")
    known = Message("Known: {names}.", names=", ".join(DTYPES))
    if value is None:
        raise WireError("The dtype of the tensor is missing.", known)
    name = str(value).removeprefix("torch.")
    if name not in DTYPES:
        raise WireError("The dtype “{name}” is not served.", known, name=name[:40])
    return name


def side_length(parameters: Mapping[str, Any], name: str) -> int | None:
    value = parameters.get(name)
    if value is None:
        return None
    number = _integer(value)
    if number is None or not 1 <= number <= MAX_DIMENSION:
        raise WireError(
            "{name} must be a whole number of pixels, not “{text}”.", name=name, text=str(value)[:40]
        )
    return number


def scaling_of(parameters: Mapping[str, Any], *, legacy: bool) -> Scaling:
    """Which scaling a request means.

    An explicit `do_scaling=False` wins, then factors, then an explicit True. With none of them today's diffusers
    means "no scaling" (it drops a False), while the clients of the first servers, known by `input_tensor_type` or
    by base64, rely on a default of True.
    """
    requested = flag(parameters, "do_scaling")
    factor = number(parameters, "scaling_factor")
    shift = number(parameters, "shift_factor")
    if factor == 0:
        raise WireError("scaling_factor must not be 0.")
    if requested is False:
        return RAW
    if factor is not None or shift is not None:
        return Scaling(1.0 if factor is None else factor, shift or 0.0)
    return CONFIGURED if requested or legacy else RAW


def parse_scaling(query: Iterable[tuple[str, str]]) -> Scaling:
    """The scaling that a query means."""
    return scaling_of(merge_query(query), legacy=False)


def scaling_query(scaling: Scaling) -> list[tuple[str, str]]:
    """The parameters that say `scaling` to old servers and new ones alike: never by leaving something out."""
    if scaling.configured:
        return [("do_scaling", "True")]
    if scaling == RAW:
        return [("do_scaling", "False")]
    query = [("scaling_factor", repr(scaling.factor))]
    if scaling.shift:
        query.append(("shift_factor", repr(scaling.shift)))
    return query
