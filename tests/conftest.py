"""Fixtures that several test files share. Everything runs on the built-in model: no GPU, no hub, no key."""

from __future__ import annotations

import os

# Before any library reads them: no telemetry, no hub, no chatter.
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    GRADIO_ANALYTICS_ENABLED="False",
    GRADIO_SSR_MODE="False",
    TRANSFORMERS_VERBOSITY="error",
    DIFFUSERS_VERBOSITY="error",
)

from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image
from starlette.applications import Starlette

from backend.settings import Settings
from backend.studio import Studio
from tests.serving import serve


@pytest.fixture(scope="session")
def studio() -> Iterator[Studio]:
    """One Studio on the built-in model, its VAE routes served on a real port, for all tests that only use it."""
    studio = Studio(Settings(device="cpu", model="builtin"))
    with serve(Starlette(routes=studio.routes())) as url:
        studio.own_url = url
        yield studio


@pytest.fixture(scope="session")
def picture() -> Image.Image:
    """A smooth, colourful RGB picture of 96 by 64 pixels: pleasant for a VAE, and not symmetric."""
    colours = np.random.default_rng(7).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((96, 64), Image.Resampling.BICUBIC)
