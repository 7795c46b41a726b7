"""Where a stage should run on this machine as it is now: forecasts, what was learned, and the free memory together."""

from __future__ import annotations

from backend.device.loading import Loader, Part
from backend.device.measure import DeviceState, device_name, free_bytes
from backend.device.precision import dtype_name
from backend.job import ResolvedJob
from backend.models import ModelSpec
from backend.placement.choose import Candidate, choose
from backend.placement.estimate import Estimate, estimate
from backend.placement.learned import ExpectedCost, LearnedCosts
from backend.report import StageReport
from backend.request import StageRequest
from backend.settings import Settings


class Planner:
    """Reads the device and the learned costs for `choose` and `estimate`. Thread-safe; loads no weights."""

    def __init__(self, settings: Settings, loader: Loader, costs: LearnedCosts | None = None) -> None:
        self.settings = settings
        self.loader = loader
        path = settings.cache_folder and settings.cache_folder / "calibration.json"
        self.costs = costs or LearnedCosts(path)

    def device_state(self, spec: ModelSpec, part: Part = "VAE") -> DeviceState:
        """The device as it is now, for this part of the model; asking for it imports torch."""
        device = self.loader.device
        dtype = dtype_name(self.loader.dtype(spec, part))
        return DeviceState(device.type, str(device_name(device)), dtype, free_bytes(device))

    def expect(self, request: StageRequest, mode: str) -> ExpectedCost:
        """What the stage will take in that mode on this app's device."""
        return self.costs.expect(request, mode, self.device_state(request.spec))

    def candidates(self, request: StageRequest) -> list[Candidate]:
        """The modes to try now, in order; see `choose`.

        Of endpoints only the owner's are candidates of "auto": a public default is for whoever chooses "remote", and
        this app's own would need the same memory again.
        """
        device = self.device_state(request.spec)
        configured = self.settings.configured_endpoints(request.spec)
        return choose(
            request,
            device,
            lambda mode: self.costs.expect(request, mode, device),
            has_endpoint=configured.of(request.direction) is not None,
        )

    def expect_denoise(self, job: ResolvedJob) -> float | None:
        """Seconds of the job's denoising; 0 if there is nothing to do, None before the model has denoised here."""
        return self.costs.expect_denoise(job, self.device_state(job.spec, "denoiser"))

    def learn_denoise(self, job: ResolvedJob, report: StageReport) -> None:
        self.costs.learn_denoise(job, self.device_state(job.spec, "denoiser"), report.cost.seconds)

    def estimate(self, job: ResolvedJob) -> Estimate:
        """What the job would take as things are now; nothing runs."""
        free = self.device_state(job.spec).free_bytes
        return estimate(job, free, self.candidates, self.expect, self.expect_denoise(job))
