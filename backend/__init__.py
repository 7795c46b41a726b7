"""Latent Relay's engine: models, VAE modes, the wire protocol, img2img. Knows nothing of the page."""
