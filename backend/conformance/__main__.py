"""`python -m backend.conformance URL`: run every check against an endpoint and print a table."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from backend.errors import RemoteError
from backend.models import LatentSpec
from backend.remote import description
from backend.remote.client import EndpointClient
from backend.remote.description import EndpointDescription
from backend.remote.net import new_session
from backend.token import Token

if TYPE_CHECKING:
    from backend.conformance.check import CheckResult

TOKEN_VARIABLE = "LATENT_RELAY_TOKEN"
_SECONDS = 10.0
"""How long an endpoint may take to describe itself."""
_UNKNOWN = EndpointDescription("", "", channels=4)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 1 if anything failed."""
    parser = _parser()
    options = parser.parse_args(arguments)
    token = os.environ.get(TOKEN_VARIABLE) or None
    encode, decode, described = find_addresses(options.url, token) if options.url else (None, None, _UNKNOWN)
    if not (encode or options.encode or options.decode):
        parser.error("give an address")
    # With torch, so not before the flags are known to be right.
    from backend.conformance.check import run_check
    from backend.conformance.checks import CHECKS
    from backend.conformance.target import Target

    spec = LatentSpec(
        channels=options.channels or described.channels,
        downscale=options.downscale or described.downscale or 8,
        scaling_factor=options.scaling_factor or described.scaling_factor or 0.18215,
        shift_factor=options.shift_factor or described.shift_factor,
    )
    target = Target(
        options.encode or encode, options.decode or decode, spec, token, fixed_scale=described.fixed_scale
    )
    results = [run_check(target, check) for check in CHECKS]
    sys.stdout.write(table(results) + "\n")
    return int(any(result.verdict == "FAILED" for result in results))


def find_addresses(url: str, token: str | None = None) -> tuple[str, str, EndpointDescription]:
    """(encode URL, decode URL, description) of an address that a person gave; an empty one if it describes nothing."""
    base = url.rstrip("/")
    client = EndpointClient(new_session(), _SECONDS, Token.bound_to(token, base) if token else None)
    try:
        found = description.fetch(base, client)
    except RemoteError:
        found = []  # the checks find out what is wrong, and say it
    if len(found) == 1 and found[0].url == base:
        return f"{base}/encode", f"{base}/decode", found[0]
    if len(found) == 1:
        return f"{base}/", f"{base}/", found[0]
    return base, base, _UNKNOWN


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
