"""The Hybrid Inference protocol: pure bytes ⇄ tensors, used by the endpoint and by the remote client alike.

It is the protocol of `diffusers.utils.remote_utils` and of the public servers it was made for, in every dialect
that a known client speaks (docs/endpoint.md has the table). `pack_*` and `parse_*` are pairs, inverse to each other:

    EncodeRequest, DecodeRequest   ⇄  HttpRequest (query, headers, body)
    a tensor                       ⇄  its little-endian bytes, with its shape and dtype beside them
    an image tensor                ⇄  JPEG, PNG, or one of three tensor forms
    a reply's tensor               ⇄  headers and body, binary or base64 in JSON

Nothing here reads or writes a socket or a file. torch is imported by the functions that touch tensors, because the
routes are built before the first page is up. `peek_decode` and `peek_encode` read parameters alone, so that a server
can refuse a request before its body arrives.
"""

from __future__ import annotations

from backend.wire.json_body import check_json, read_json
from backend.wire.parameters import (
    CONFIGURED,
    RAW,
    Scaling,
    merge_query,
    parse_query,
    parse_scaling,
    read_shape,
)
from backend.wire.pictures import (
    PICTURE_TYPES,
    image_to_pixels,
    pack_picture,
    parse_picture,
    pixels_to_image,
    refuse_batch,
    sniff,
)
from backend.wire.replies import (
    pack_computed,
    pack_decode_reply,
    pack_tensor_reply,
    pack_timing,
    parse_computed,
    parse_decode_reply,
    parse_tensor_reply,
    parse_timing,
)
from backend.wire.requests import (
    OUTPUTS,
    DecodeRequest,
    Dialect,
    EncodeRequest,
    HttpRequest,
    Output,
    Peek,
    guess_direction,
    may_be_json,
    pack_decode_request,
    pack_encode_request,
    parse_decode_request,
    parse_encode_request,
    peek_decode,
    peek_encode,
)
from backend.wire.tensors import DTYPES, pack_latents, pack_tensor, parse_tensor, unpack_latents

__all__ = [
    "CONFIGURED",
    "DTYPES",
    "OUTPUTS",
    "PICTURE_TYPES",
    "RAW",
    "DecodeRequest",
    "Dialect",
    "EncodeRequest",
    "HttpRequest",
    "Output",
    "Peek",
    "Scaling",
    "check_json",
    "guess_direction",
    "image_to_pixels",
    "may_be_json",
    "merge_query",
    "pack_computed",
    "pack_decode_reply",
    "pack_decode_request",
    "pack_encode_request",
    "pack_latents",
    "pack_picture",
    "pack_tensor",
    "pack_tensor_reply",
    "pack_timing",
    "parse_computed",
    "parse_decode_reply",
    "parse_decode_request",
    "parse_encode_request",
    "parse_picture",
    "parse_query",
    "parse_scaling",
    "parse_tensor",
    "parse_tensor_reply",
    "parse_timing",
    "peek_decode",
    "peek_encode",
    "pixels_to_image",
    "read_json",
    "read_shape",
    "refuse_batch",
    "sniff",
    "unpack_latents",
]
