"""`python -m backend.endpoint --vae NAME=FOLDER_OR_REPO …`: the VAE server without the page."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence

import uvicorn

from backend.device.queue import DeviceQueue
from backend.endpoint.app import build_app
from backend.endpoint.flags import add_serving_flags, vae_sources
from backend.endpoint.service import MEBI, TOKEN_VARIABLE, Limits, Service
from backend.endpoint.source import Source
from backend.errors import LatentRelayError
from backend.logs import log_json_lines

log = logging.getLogger("backend.endpoint")


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; 2 for settings that cannot be used."""
    options = _parser().parse_args(arguments)
    log_json_lines(options.log_level)
    try:
        service, sources = build_service(options)
    except LatentRelayError as error:
        sys.stderr.write(f"{error.sentence}\n")
        return 2
    threading.Thread(target=_load_all, args=(sources,), name="vae-load", daemon=True).start()
    config = uvicorn.Config(
        build_app(service),
        host=options.host,
        port=options.port,
        log_level=options.log_level,
        log_config=None,  # so that its lines are ours, in JSON
        access_log=False,  # ours have ids, and no queries
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(options.deadline) + 5,
    )
    # uvicorn finishes what is inside, then raises the signal anew for the handler that was there before it; there was
    # none, and the default would end the process as if it had failed.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    uvicorn.Server(config).run()
    log.info("stopped; everything inside was %s", "answered" if service.close(5.0) else "given up")
    return 0


def build_service(options: argparse.Namespace) -> tuple[Service, list[Source]]:
    """The service that the flags describe, nothing loaded yet.

    Raises:
        LatentRelayError: a VAE that cannot be served.
    """
    queue = DeviceQueue()
    sources = [
        Source(name, source, options.device, options.dtype, queue) for name, source in vae_sources(options)
    ]
    limits = Limits(
        max_body_bytes=int(options.max_body * MEBI),
        max_pixels=options.max_pixels,
        max_batch=options.max_batch,
        queue=options.queue,
        per_client=options.per_client,
        batch_pixels=options.batch_pixels,
        deadline=options.deadline,
    )
    return Service(
        [source.served for source in sources], limits, os.environ.get(TOKEN_VARIABLE) or None
    ), sources


def _load_all(sources: list[Source]) -> None:
    for source in sources:
        try:
            source.module()
        except LatentRelayError as error:
            log.error("%s: %s", source.name, error.sentence)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m backend.endpoint",
        description="Serve VAEs over the Hybrid Inference protocol.",
        epilog=f"A token that clients must send is taken from the environment variable {TOKEN_VARIABLE}.",
    )
    add_serving_flags(parser)
    _add_limits(parser)
    parser.add_argument(
        "--log-level", default="info", choices=("debug", "info", "warning", "error"), help="(%(default)s)"
    )
    return parser


def _add_limits(parser: argparse.ArgumentParser) -> None:
    limits = Limits()
    parser.add_argument(
        "--max-body",
        type=float,
        default=limits.max_body_bytes / MEBI,
        metavar="MIB",
        help="Largest request body in MiB; larger ones get 413 unread. (%(default)g)",
    )
    parser.add_argument(
        "--max-pixels",
        type=int,
        default=limits.max_pixels,
        help="Largest picture in pixels; larger ones get 413 undecoded. (%(default)s, that is 2048 × 2048)",
    )
    parser.add_argument(
        "--max-batch", type=int, default=limits.max_batch, help="Most pictures in a request. (%(default)s)"
    )
    parser.add_argument(
        "--queue",
        type=int,
        default=limits.queue,
        help="Requests inside at once; further ones get 503 with Retry-After. (%(default)s)",
    )
    parser.add_argument(
        "--per-client",
        type=int,
        metavar="REQUESTS",
        help="Requests of one address inside at once; 0 sets no limit. By default a public address may have half of "
        "them, and a private one, where a proxy may stand for everybody, all.",
    )
    parser.add_argument(
        "--batch-pixels",
        type=int,
        default=limits.batch_pixels,
        help="Compute waiting requests of equal shape together up to so many pixels; 0 never does. (%(default)s)",
    )
    parser.add_argument(
        "--deadline", type=float, default=limits.deadline, help="Seconds one request may take. (%(default)g)"
    )


if __name__ == "__main__":
    sys.exit(main())
