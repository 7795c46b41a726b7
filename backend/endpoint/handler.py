"""The protocol as a custom handler of Hugging Face Inference Endpoints.

Put this repository's `backend/` beside a VAE's files, and a `handler.py` with the one line
`from backend.endpoint.handler import EndpointHandler`. The toolkit there reads HTTP itself and hands over a dict, so
this speaks the legacy base64 dialect, and takes a PIL picture where the toolkit decoded one.
"""

from __future__ import annotations

import json
from typing import Any

from PIL import Image

from backend import wire
from backend.device.queue import DeviceQueue
from backend.endpoint.compute import compute_alone
from backend.endpoint.source import Source
from backend.images import to_rgb, to_tensor

_JSON = {"content-type": "application/json"}


class EndpointHandler:
    """What the toolkit looks for: built once with the repository's folder, then called with each request."""

    def __init__(self, path: str = ".") -> None:
        source = Source("vae", path, "auto", "auto", DeviceQueue())
        source.module()
        self.served = source.served

    def __call__(self, data: dict[str, Any]) -> Any:
        """`{"inputs", "parameters"}` to the same shape of reply, or to a PIL picture for `output_type=pil`.

        Raises:
            LatentRelayError: the toolkit answers 400 with its sentence.
        """
        inputs, parameters = data.get("inputs"), data.get("parameters") or {}
        if isinstance(inputs, Image.Image):
            query = [(str(key), str(value)) for key, value in parameters.items()]
            scaling = wire.parse_scaling(query)
            return self._reply(wire.EncodeRequest(to_tensor(to_rgb(inputs)), scaling))
        body = json.dumps({"inputs": inputs, "parameters": parameters}).encode()
        if wire.guess_direction((), _JSON, body, self.served.spec.channels) == "encode":
            return self._reply(
                wire.parse_encode_request((), _JSON, body, multiple=self.served.spec.downscale)
            )
        return self._reply(wire.parse_decode_request((), _JSON, body))

    def _reply(self, request: wire.DecodeRequest | wire.EncodeRequest) -> Any:
        if isinstance(request, wire.EncodeRequest):
            latents = compute_alone(self.served, "encode", request.image, request.scaling).tensor
            return json.loads(wire.pack_tensor_reply(latents, base64_reply=True)[1])
        image = compute_alone(self.served, "decode", request.latents, request.scaling).tensor
        if request.output in ("jpg", "png"):
            wire.refuse_batch(image.shape[0], request.output)
            return Image.fromarray(wire.image_to_pixels(image)[0].numpy())
        return json.loads(wire.pack_decode_reply(image, request.output, base64_reply=True)[1])
