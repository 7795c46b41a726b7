"""Mode "whole": diffusers' VAE as it is, in one piece."""

from __future__ import annotations

import torch

from backend.vae.base import LocalVAE


class Whole(LocalVAE):
    mode = "whole"

    def _encode(self, image: torch.Tensor) -> torch.Tensor:
        posterior = self.module.encode(image)
        if hasattr(posterior, "latent_dist"):
            return posterior.latent_dist.mode()
        return posterior.latents  # AutoencoderTiny is deterministic

    def _decode(self, z: torch.Tensor) -> torch.Tensor:
        return self.module.decode(z, return_dict=False)[0]
