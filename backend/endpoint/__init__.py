"""The VAE server: Hybrid Inference over HTTP, next to the page or on its own (`python -m backend.endpoint --help`).

    service = Service([Served("builtin", spec, load, queue)], Limits(), token=None)
    routes(service)       starlette routes for another app's route table
    build_app(service)    an ASGI app of its own

    service.py    what is served, limits, and the path from a request to a reply
    batching.py   one device's bounded queue of requests, which feeds the device's thread
    compute.py    the computing itself, with its retries
    app.py        the HTTP edge: routes, bodies, limits
    responses.py  statuses, JSON errors, log lines
    metrics.py    the figures at /metrics
    openapi.py    the machine-readable description
    source.py     a folder or repository → a VAE to serve
    handler.py    the same as a Hugging Face Inference Endpoint
    cluster.py    the same on Ray Serve

Importing this package does not import torch: the routes exist before the first page is up.
"""

from backend.endpoint.app import build_app, routes
from backend.endpoint.compute import Served
from backend.endpoint.service import Limits, Service

__all__ = ["Limits", "Served", "Service", "build_app", "routes"]
