"""The flags that every server of VAEs has: what it serves, where it listens, and in what it computes."""

from __future__ import annotations

import argparse

from backend.endpoint.source import parse_source
from backend.models import BUILTIN


def add_serving_flags(parser: argparse.ArgumentParser) -> None:
    """--vae, --host, --port, --device and --dtype."""
    parser.add_argument(
        "--vae",
        action="append",
        metavar="NAME=FOLDER_OR_REPO",
        help="A VAE to serve: an AutoencoderKL or AutoencoderTiny folder, a pipeline folder with vae/ in it, or a "
        "hub repository of either; may be repeated. Without it the built-in one is served.",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="Address to listen on; 0.0.0.0 lets other machines in. (%(default)s)",
    )
    parser.add_argument("--port", type=int, default=7861, help="Port to listen on. (%(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps. (%(default)s)")
    parser.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", "float32", "float16", "bfloat16"),
        help="Number format to compute in; auto is float16 on a GPU where the VAE bears it. (%(default)s)",
    )


def vae_sources(options: argparse.Namespace) -> tuple[tuple[str, str], ...]:
    """(name, folder or repository) of each VAE to serve.

    Raises:
        BadSettingError: one that is not NAME=FOLDER_OR_REPO.
    """
    return tuple(parse_source(text) for text in options.vae or [f"builtin={BUILTIN.repository}"])
