"""Requests that the endpoint's OpenAPI description allows, and others that it forbids, made by schemathesis.

Each answer is checked against that description: a status, media type, header or error body that is not in it is a
finding, in the endpoint or in what it says of itself.
"""

from __future__ import annotations

import time
from functools import cache
from typing import Any

import requests
import schemathesis
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from backend.wire import PICTURE_TYPES
from tests import hostile
from tests.fuzz.attacks import valid
from tests.fuzz.campaign import PATIENCE, Tally

CHECKS: list[Any] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@cache
def _teach() -> None:
    """How bodies of the protocol's own media types are made and sent."""
    binary = ["tensor/binary", *PICTURE_TYPES.values()]
    schemathesis.serializer.alias(binary, "application/octet-stream")
    schemathesis.serializer.alias("tensor/base64", "application/json")
    known = [attack.body for attack in valid() if attack.body] + list(hostile.bodies().values())
    for kind in binary:
        schemathesis.openapi.media_type(kind, st.one_of(st.sampled_from(known), st.binary(max_size=64)))


def cases(url: str) -> st.SearchStrategy[Any]:
    """Requests to every address of the running endpoint's description."""
    _teach()
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    strategies = []
    for result in schema.get_all_operations():
        operation = result.ok()
        modes = [schemathesis.GenerationMode.POSITIVE]
        if operation.query or operation.path_parameters or operation.body:
            modes.append(schemathesis.GenerationMode.NEGATIVE)
        # An address that takes a body has more to get wrong than one that is only read.
        weight = 5 if operation.body else 1
        strategies += weight * [operation.as_strategy(generation_mode=mode) for mode in modes]
    return st.one_of(strategies)


def try_case(url: str, case: Any, session: requests.Session, tally: Tally) -> None:
    """Send one described request and add what came of it."""
    what = f"{case.method} {case.formatted_path} {dict(case.query or {})} {str(case.body)[:60]!r}"[:400]
    started = time.monotonic()
    try:
        response = case.call(base_url=url, session=session, timeout=PATIENCE, allow_redirects=False)
    except requests.RequestException as error:
        tally.add(what, "none", time.monotonic() - started, f"no answer ({type(error).__name__})")
        return
    seconds = time.monotonic() - started
    finding = None
    try:
        case.validate_response(response, checks=CHECKS)
    except FailureGroup as group:
        finding = "; ".join(
            f"{type(error).__name__} {response.status_code} {error}"[:300] for error in group.exceptions
        )
    tally.add(what, str(response.status_code), seconds, finding)
