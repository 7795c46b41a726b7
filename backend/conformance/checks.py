"""Every check, in the order in which they are run."""

from __future__ import annotations

from backend.conformance import decode, encode, refusals

CHECKS = (*decode.CHECKS, *encode.CHECKS, *refusals.CHECKS)
