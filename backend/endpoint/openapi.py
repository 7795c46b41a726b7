"""The endpoint described in OpenAPI 3.1, for tools that make clients and for people who read."""

from __future__ import annotations

from typing import Any

from backend.endpoint.service import Service
from backend.wire import DTYPES, PICTURE_TYPES

_ERRORS = {
    400: "A parameter or body that makes no sense",
    401: "No token, or a wrong one",
    404: "No VAE of that name",
    405: "A method that this address does not take",
    413: "Too many bytes, pixels or pictures",
    415: "A body of a kind that is not served",
    422: "The VAE overflowed, also in the widest dtype",
    503: "Busy, loading or stopping; Retry-After tells when to come back",
    507: "Out of memory, also in a mode that needs less",
}


def describe_api(service: Service) -> dict[str, Any]:
    """The description, JSON-ready; with the names of this server's VAEs."""
    names = [served.name for served in service.all()]
    model = {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "enum": names}}
    paths: dict[str, Any] = {
        "/vae": {"get": _reading("The VAEs served, with scaling, channels, downscale and limits")},
        "/vae/{model}": {"get": {**_reading("One VAE", errors=(404,)), "parameters": [model]}},
        "/vae/{model}/encode": {"post": _encode([model])},
        "/vae/{model}/decode": {"post": _decode([model])},
        "/health": {"get": _reading("Whether the process is alive", secured=False)},
        "/ready": {"get": _reading("Whether every VAE is loaded", secured=False, errors=(503,))},
        "/metrics": {"get": _reading("Figures for Prometheus", media="text/plain")},
    }
    if len(names) == 1:
        both = _decode([])
        both["summary"] = "Encode a picture, or decode latents, as the request shows"
        paths["/"] = {"post": both}
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "Latent Relay VAE endpoint",
            "version": "1",
            "description": "The Hybrid Inference protocol of diffusers.utils.remote_utils.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": {
                "Error": {
                    "type": "object",
                    "required": ["error", "code", "hint", "request_id"],
                    "properties": {
                        "error": {"type": "string", "description": "One sentence for a person"},
                        "code": {"type": "string", "description": "The same for a program"},
                        "hint": {"type": "string", "description": "What to do; may be empty"},
                        "request_id": {"type": "string", "description": "As in the server's log"},
                    },
                }
            },
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }
    if service.token is not None:
        document["security"] = [{"token": []}]
    return document


def _query(name: str, kind: dict[str, Any], text: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": kind, "description": text}


_SHAPE = _query(
    "shape",
    {"type": "array", "items": {"type": "integer", "minimum": 1}},
    "Of the tensor sent, as a repeated key; a JSON list in one key works too",
)
_DTYPE = _query("dtype", {"type": "string", "enum": list(DTYPES)}, "Of the tensor sent")
_FACTOR = _query("scaling_factor", {"type": "number"}, "Latents are (z - shift_factor) * scaling_factor")
_SHIFT = _query("shift_factor", {"type": "number"}, "See scaling_factor")
_DO_SCALING = _query(
    "do_scaling", {"type": "boolean"}, "True without factors: the VAE's own; False: the VAE's raw latents"
)


def _encode(parameters: list[dict[str, Any]]) -> dict[str, Any]:
    pictures: dict[str, Any] = {kind: {} for kind in PICTURE_TYPES.values()}
    return {
        "summary": "A picture to latents",
        "parameters": [*parameters, _SHAPE, _DTYPE, _FACTOR, _SHIFT, _DO_SCALING],
        "requestBody": {"required": True, "content": {**pictures, "tensor/binary": {}, "tensor/base64": {}}},
        "responses": _responses({"tensor/binary": {}, "tensor/base64": {}}),
    }


def _decode(parameters: list[dict[str, Any]]) -> dict[str, Any]:
    def pixels(side: str) -> dict[str, Any]:
        return _query(side, {"type": "integer"}, "Of the picture in pixels; needed with packed latents")

    return {
        "summary": "Latents to a picture",
        "parameters": [
            *parameters,
            _SHAPE,
            _DTYPE,
            _FACTOR,
            _SHIFT,
            _DO_SCALING,
            _query(
                "output_type",
                {"type": "string", "enum": ["pil", "pt"], "default": "pil"},
                "A file or a tensor",
            ),
            _query(
                "image_format", {"type": "string", "enum": ["jpg", "png"], "default": "jpg"}, "Of the file"
            ),
            _query("partial_postprocess", {"type": "boolean"}, "With pt: uint8 NHWC instead of float NCHW"),
            pixels("height"),
            pixels("width"),
        ],
        "requestBody": {"required": True, "content": {"tensor/binary": {}, "tensor/base64": {}}},
        "responses": _responses(
            {"image/jpeg": {}, "image/png": {}, "tensor/binary": {}, "tensor/base64": {}}
        ),
    }


def _responses(content: dict[str, Any]) -> dict[str, Any]:
    def header(text: str) -> dict[str, Any]:
        return {"schema": {"type": "string"}, "description": text}

    good = {
        "description": "Done",
        "content": content,
        "headers": {
            "shape": header("Of a tensor, as a JSON list"),
            "dtype": header("Of a tensor"),
            "Server-Timing": header("parse, queue, compute and encode in milliseconds"),
            "X-Peak-Memory": header("Bytes, then kind=VRAM or kind=RAM"),
            "X-VAE-Mode": header("How it was computed: whole, or tiled if memory ran out"),
            "X-VAE-DType": header("The dtype it was computed in, then overflowed=… for those tried before"),
            "X-Request-Id": header(
                "The client's own if it sent one, else a new one; also in the server's log"
            ),
        },
    }
    return {"200": good, **_errors(*_ERRORS)}


def _errors(*codes: int) -> dict[str, Any]:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {str(code): {"description": _ERRORS[code], "content": error} for code in codes}


def _reading(
    summary: str,
    *,
    media: str = "application/json",
    secured: bool = True,
    errors: tuple[int, ...] = (),
) -> dict[str, Any]:
    good = {"description": "Done", "content": {media: {}}}
    codes = (401, 405, *errors) if secured else (405, *errors)
    described: dict[str, Any] = {"summary": summary, "responses": {"200": good, **_errors(*codes)}}
    return described if secured else {**described, "security": []}
