"""The endpoint's own fixtures: the client is tested against the real server."""

from tests.endpoint.conftest import base, builtin, flux_like, latents, service

__all__ = ["base", "builtin", "flux_like", "latents", "service"]
