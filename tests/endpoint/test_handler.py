"""The Hugging Face handler: called as its toolkit calls it, it agrees with the VAE."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from backend import wire
from backend.endpoint import handler as module
from backend.endpoint.handler import EndpointHandler
from backend.errors import WireError
from backend.images import to_image, to_tensor
from backend.models import BUILTIN
from backend.vae.whole import Whole


@pytest.fixture(scope="module")
def handler() -> EndpointHandler:
    return EndpointHandler(BUILTIN.repository)


def test_decode(handler: EndpointHandler, builtin: Whole, latents: torch.Tensor) -> None:
    inputs = base64.b64encode(wire.pack_tensor(latents)).decode()
    parameters = {"shape": list(latents.shape), "dtype": "float32"}
    picture = handler({"inputs": inputs, "parameters": parameters})
    expected = builtin.decode(latents)  # the first handlers scaled by default
    assert np.array_equal(np.array(picture), np.array(to_image(expected)))
    reply = handler({"inputs": inputs, "parameters": {**parameters, "output_type": "pt"}})
    json.dumps(reply)
    tensor = wire.parse_tensor(
        base64.b64decode(reply["inputs"]), tuple(reply["parameters"]["shape"]), "float32"
    )
    assert torch.equal(tensor, expected)


def test_encode(handler: EndpointHandler, builtin: Whole, picture: Image.Image) -> None:
    expected = builtin.encode(to_tensor(picture))
    reply = handler({"inputs": picture, "parameters": {"scaling_factor": BUILTIN.latents.scaling_factor}})
    tensor = wire.parse_tensor(
        base64.b64decode(reply["inputs"]), tuple(reply["parameters"]["shape"]), "float32"
    )
    assert torch.equal(tensor, expected)


def test_nonsense_is_a_sentence(handler: EndpointHandler) -> None:
    for data in ({}, {"inputs": 5}, {"inputs": "AAAA", "parameters": {"shape": [1], "dtype": "float32"}}):
        with pytest.raises(WireError):
            handler(data)


def test_it_stays_small() -> None:
    assert module.__file__ is not None
    assert len(Path(module.__file__).read_text().splitlines()) < 60
