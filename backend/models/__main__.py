"""`python -m backend.models` lists the models of this app; `--pin` pins their repositories."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from backend.device import hub
from backend.models import MODELS


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m backend.models`: lists the models; `--pin` writes the lock file. 2 if the hub cannot be asked."""
    parser = argparse.ArgumentParser(prog="python -m backend.models", description="The models of this app.")
    parser.add_argument(
        "--pin",
        action="store_true",
        help="write the present commit of each repository on the hub to the lock file",
    )
    options = parser.parse_args(arguments)
    repositories = {
        repository
        for spec in MODELS.values()
        if not spec.is_local
        for repository in (spec.repository, spec.vae_repository, spec.tiny_vae)
        if repository
    }
    out = sys.stdout.write
    if not options.pin:
        for spec in MODELS.values():
            out(f"{spec.name}: {spec.title}, {spec.repository}\n")
        return 0
    from huggingface_hub.errors import HfHubHTTPError

    try:
        commits = hub.pin(repositories)
    except (OSError, HfHubHTTPError) as error:
        sys.stderr.write(f"The hub could not be asked, so nothing was pinned: {error}\n")
        return 2
    for name, commit in commits.items():
        out(f"{name} {commit}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
