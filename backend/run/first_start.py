"""What happens on a machine that could run more than is on it: the owner's model is fetched, another one is offered."""

from __future__ import annotations

from collections.abc import Callable

from backend.device.availability import wanted_model
from backend.device.measure import total_bytes
from backend.job import VaeOptions
from backend.models import ModelSpec
from backend.request import StageRequest
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
        if _fits(wanted, weights, context):
            downloads.offered = wanted
    finally:
        downloads.looking = False


def _fits(spec: ModelSpec, weights: int, context: ExecutionContext) -> bool:
    """Whether a GPU here holds the weights and, beside them, the leanest exact VAE stage at the model's own size."""
    device = context.loader.device
    if device.type == "cpu":
        return False
    stage = StageRequest("decode", spec, spec.native_size, spec.native_size, VaeOptions("streamed"))
    expected = context.planner.expect(stage, "streamed")
    return weights + (expected.least_bytes or expected.peak_bytes or 0) <= total_bytes(device)
