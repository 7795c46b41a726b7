"""Mode "streamed": the untiled VAE's own result in a fraction of its memory. See docs/streamed.md."""

from backend.vae.streamed.plan import plan
from backend.vae.streamed.steps import StripPlan
from backend.vae.streamed.vae import Streamed

__all__ = ["Streamed", "StripPlan", "plan"]
