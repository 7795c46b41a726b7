"""Mode "streamed": the untiled VAE's own result in a fraction of its memory. See docs/streamed.md."""

from backend.vae.streamed.plan import Plan, plan
from backend.vae.streamed.vae import Streamed

__all__ = ["Plan", "Streamed", "plan"]
