"""`python -m backend.cluster --help`: the endpoint on Ray Serve, for more GPUs than one machine has."""

from __future__ import annotations

import sys

from backend.endpoint.cluster import main

if __name__ == "__main__":
    sys.exit(main())
