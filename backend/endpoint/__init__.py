"""The VAE server: Hybrid Inference over HTTP, next to the page or on its own (`python -m backend.endpoint --help`).

    service = Service([Served("builtin", spec, load, lock)], Limits(), token=None)
    routes(service)       starlette routes for another app's route table
    build_app(service)    an ASGI app of its own

    service.py   what is served, limits, and the path from a request to a reply
    lane.py      one device's bounded queue and the one thread that computes on it
    app.py       the HTTP edge: routes, bodies, statuses, JSON errors
    metrics.py   what /metrics tells Prometheus
    openapi.py   the machine-readable description
    source.py    a folder or repository → a VAE to serve

Importing this package does not import torch: the routes exist before the first page is up.
"""

from backend.endpoint.app import build_app, routes
from backend.endpoint.service import Limits, Served, Service

__all__ = ["Limits", "Served", "Service", "build_app", "routes"]
