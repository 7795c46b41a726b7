"""What JSON would cost is counted before it is parsed, in time that grows with its length alone."""

from __future__ import annotations

import json
import time

import pytest

from backend.errors import WireError
from backend.wire.json_body import MAX_DEPTH, MAX_VALUES, check_json, read_json


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"[" * 900_000, "more than"),
        (b"[" * 1000 + b"]" * 1000, "nested"),
        (b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1), "nested"),
        (b"[" + b"[]," * 300_000 + b"[]]", "more than"),
        (b"[" + b"1," * MAX_VALUES + b"1]", "more than"),
        (b'["' + b'\\"' * 300_000 + b'"]', "more than"),
        (json.dumps([[]] * 9).encode("utf-16"), "UTF-8"),
        # A backslash outside of strings escapes nothing, and a closed string hides nothing.
        (b'["\\\\",' + b"[" * 99, "nested"),
        (b"\\" + b"[" * 99, "nested"),
    ],
)
def test_json_that_costs_more_than_its_length_is_refused(body: bytes, problem: str) -> None:
    with pytest.raises(WireError, match=problem):
        check_json(body)


@pytest.mark.parametrize(
    "value",
    [
        {"data": ["[" * 5000, '\\"[' * 500, "{" * 99, None], "fn_index": 3},
        {"data": ["data:image/png;base64," + "A" * 1_400_000]},
        [[[[[[1, 2.5, True]]]]]] * 400,
    ],
)
def test_what_the_page_and_its_clients_send_is_read(value: object) -> None:
    assert read_json(json.dumps(value).encode()) == value


@pytest.mark.parametrize("end", [b"", b"\\", b'"', b"]", b"\\\\\\"])
@pytest.mark.parametrize("part", [b"[", b"\\", b"\\[", b" ", b"a", b"9", b"\xff"])
def test_counting_takes_one_pass(part: bytes, end: bytes) -> None:
    def seconds(length: int) -> float:
        body = b"[" * (MAX_DEPTH + 1) + b'"' + part * (length // len(part)) + end
        started = time.perf_counter()
        with pytest.raises(WireError):
            read_json(body)
        return time.perf_counter() - started

    assert seconds(2_000_000) < 2.0  # one that looks back at each byte would take hours
