"""Which commit, tag or branch of a repository on the hub is meant: the spec's own, that of the lock file, or `main`.

`python -m backend.models --pin` writes each repository's present commit into revisions.json; a repository that is not
in there follows its branch `main`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from backend.models import ModelSpec

LOCK = Path(__file__).parents[1] / "revisions.json"
MAIN = "main"


@cache
def pinned() -> Mapping[str, str]:
    """Commit hashes by repository."""
    return json.loads(LOCK.read_bytes()) if LOCK.is_file() else {}


def revision_of(spec: ModelSpec, repository: str) -> str:
    """The commit, tag or branch that the spec names for its repository, else the lock file's, else `main`."""
    specified = spec.revision if repository == spec.repository else None
    return specified or pinned_revision(repository)


def pinned_revision(repository: str) -> str:
    """The commit in the lock file, else `main`."""
    return pinned().get(repository, MAIN)
