"""What happens on a machine that could run more than is on it: the owner's model is fetched, another one is offered."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from backend.device.availability import wanted_model
from backend.device.loading import Loader
from backend.models import ModelSpec
from backend.run.context import ExecutionContext
from backend.run.model_downloads import OWNER, PARTS


def look_for_better(context: ExecutionContext, retry: Callable[[], bool]) -> None:
    """Begin to fetch what the owner asked for, and find out what the page may offer; for a thread after launch.

    `retry()` waits, and says whether to ask the hub again when it did not answer.
    """
    downloads = context.downloads
    downloads.looking = True
    try:
        wanted = wanted_model(context.settings)
        if wanted is None or not context.loader.missing(wanted, PARTS):
            return
        if context.settings.model != "auto":
            downloads.offered = wanted
            downloads.start(wanted, OWNER)
            return
        while (weights := downloads.measure(wanted)) is None:
            if not retry():
                return
        if _fits(wanted, weights, context.loader):
            downloads.offered = wanted
    finally:
        downloads.looking = False


def _fits(spec: ModelSpec, sizes: Mapping[str, int], loader: Loader) -> bool:
    """Whether weights of `sizes` bytes by component would be loaded onto a GPU here as the owner wants it, all of them
    unless `--low-memory` was given: by the rule that loading itself goes by."""
    if loader.device.type == "cpu":
        return False
    chosen, _ = loader.plan_offload(spec, sizes)
    return chosen is not None and chosen.low_memory == loader.settings.low_memory
