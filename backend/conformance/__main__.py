"""`python -m backend.conformance URL`: run every check against an endpoint and print a table."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from backend.errors import RemoteError
from backend.models import LatentSpec
from backend.remote.client import EndpointClient
from backend.remote.description import EndpointDescription, fetch
from backend.remote.net import new_session
from backend.token import Token

if TYPE_CHECKING:
    from backend.conformance.check import CheckResult

TOKEN_VARIABLE = "LATENT_RELAY_TOKEN"
_DESCRIBE_SECONDS = 10.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 1 if anything failed."""
    parser = _parser()
    options = parser.parse_args(arguments)
    token = os.environ.get(TOKEN_VARIABLE) or None
    encode, decode, described = find_addresses(options.url, token) if options.url else (None, None, None)
    if not (encode or options.encode or options.decode):
        parser.error("give an address")
    from backend.conformance.check import (
        run_check,  # with torch, so not before the flags are known to be right
    )
    from backend.conformance.checks import CHECKS
    from backend.conformance.target import Target

    known = described or EndpointDescription("", "", channels=4)
    spec = LatentSpec(
        channels=options.channels or known.channels,
        downscale=options.downscale or known.downscale or 8,
        scaling_factor=options.scaling_factor or known.scaling_factor or 0.18215,
        shift_factor=options.shift_factor or known.shift_factor,
    )
    target = Target(
        options.encode or encode,
        options.decode or decode,
        spec,
        token,
        fixed_scale=known.fixed_scale,
    )
    results = [run_check(target, check) for check in CHECKS]
    sys.stdout.write(table(results) + "\n")
    return int(any(result.verdict == "FAILED" for result in results))


def find_addresses(url: str, token: str | None = None) -> tuple[str, str, EndpointDescription | None]:
    """(encode URL, decode URL, description if there is one) of an address that a person gave."""
    base = url.rstrip("/")
    try:
        secret = Token.bound_to(token, base) if token else None
        found = fetch(base, EndpointClient(new_session(), _DESCRIBE_SECONDS, secret))
    except (RemoteError, ValueError):  # ValueError: a port that is no number
        return base, base, None
    if len(found) != 1:
        return base, base, None
    if found[0].url == base:
        return f"{base}/encode", f"{base}/decode", found[0]
    return f"{base}/", f"{base}/", found[0]


def table(results: Sequence[CheckResult]) -> str:
    """The results for a terminal."""
    width = max(len(result.name) for result in results)
    lines = [
        f"{result.verdict:8}{result.direction:8}{result.name:{width}}  {result.detail[:100]}".rstrip()
        for result in results
    ]
    counts = {
        verdict: sum(result.verdict == verdict for result in results)
        for verdict in ("ok", "FAILED", "skipped")
    }
    return "\n".join([*lines, "", ", ".join(f"{count} {verdict}" for verdict, count in counts.items())])


def _parser() -> argparse.ArgumentParser:
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
    return parser


if __name__ == "__main__":
    sys.exit(main())
