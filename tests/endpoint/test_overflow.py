"""A VAE that overflows in float16 is retried in wider dtypes, says so, and fails no other request."""

from __future__ import annotations

from typing import Any

import pytest
import requests
import torch

from backend.device.queue import DeviceQueue
from backend.endpoint import Served, Service, build_app
from backend.endpoint.batching import BatchableRequest, BatchingQueue
from backend.endpoint.compute import Computed, compute_alone, compute_together
from backend.errors import LatentRelayError, NonFiniteError
from backend.models import BUILTIN
from backend.remote.vae import RemoteVae
from backend.vae.whole import Whole
from backend.wire import RAW, pack_computed, pack_tensor, parse_computed
from tests.serving import serve

SHAPE = "shape=1&shape=4&shape=4&shape=6&dtype=float32&do_scaling=true&output_type=pt"
LATENTS = torch.randn(1, 4, 4, 6, generator=torch.Generator().manual_seed(2))


class Overflowing(Whole):
    """Computes as the module does, but gives infinity in the formats named, or for latents of one huge value."""

    formats: tuple[torch.dtype, ...] = (torch.float16,)

    def _decode(self, z: torch.Tensor) -> torch.Tensor:
        image = (
            super()._decode(z.float()) if self.dtype == torch.float32 else z.new_zeros(z.shape[0], 3, 32, 48)
        )
        huge = z.abs().flatten(1).amax(1) > 1e4
        image[huge] = torch.inf
        return image * torch.inf if self.dtype in self.formats else image


def overflowing(builtin: Whole, *formats: torch.dtype) -> Overflowing:
    import copy

    vae = Overflowing(copy.deepcopy(builtin.module).half(), builtin.spec)
    vae.formats = formats
    return vae


@pytest.mark.parametrize(
    ("formats", "header"),
    [
        ((), "float16"),
        ((torch.float16,), "bfloat16; overflowed=float16"),
        ((torch.float16, torch.bfloat16), "float32; overflowed=float16; overflowed=bfloat16"),
    ],
)
def test_it_upcasts_as_far_as_it_must_and_says_so(
    builtin: Whole, formats: tuple[torch.dtype, ...], header: str
) -> None:
    vae = overflowing(builtin, *formats)
    with serve(build_app(Service([Served("only", builtin.spec, lambda: vae)]))) as url:
        for _ in range(2):  # the second request starts from float16 again
            reply = requests.post(f"{url}/?{SHAPE}", data=pack_tensor(LATENTS), timeout=20)
            assert reply.status_code == 200 and reply.headers["x-vae-dtype"] == header
            assert reply.headers["x-vae-mode"] == "whole"
    assert vae.dtype == torch.float16, "the served module is left as it was"


def test_the_client_knows_and_float32_gives_float32s_picture(builtin: Whole) -> None:
    vae = overflowing(builtin, torch.float16, torch.bfloat16)
    with serve(build_app(Service([Served("only", builtin.spec, lambda: vae)]))) as url:
        client = RemoteVae(builtin.spec, None, f"{url}/vae/only/decode", transfer="float32")
        image = client.decode(LATENTS)
    assert client.computed == ("float32", ("float16", "bfloat16"))
    torch.testing.assert_close(
        image, builtin.decode(LATENTS), rtol=0, atol=0.05
    )  # weights went through float16


def test_what_overflows_everywhere_is_still_422(builtin: Whole) -> None:
    vae = overflowing(builtin, torch.float16, torch.bfloat16, torch.float32)
    with serve(build_app(Service([Served("only", builtin.spec, lambda: vae)]))) as url:
        reply = requests.post(f"{url}/?{SHAPE}", data=pack_tensor(LATENTS), timeout=20)
    assert reply.status_code == 422 and reply.json()["code"] == "non_finite"


def test_one_that_overflows_does_not_fail_those_it_was_batched_with(builtin: Whole) -> None:
    vae = Overflowing(builtin.module, builtin.spec)
    served = Served("only", BUILTIN.latents, lambda: vae)
    results = compute_together(served, "decode", [LATENTS, LATENTS * 1e9, LATENTS], RAW)
    assert [type(result) for result in results] == [Computed, NonFiniteError, Computed]
    assert isinstance(results[0], Computed)
    assert torch.equal(results[0].tensor, compute_alone(served, "decode", LATENTS, RAW).tensor)


def test_the_queue_gives_each_request_its_failure() -> None:
    queue = BatchingQueue(DeviceQueue(), 4, 100, batch_pixels=100)

    def run(items: Any) -> list[Any]:
        return [LatentRelayError("This one.") if item == 1 else item for item in items]

    futures = [queue.submit(BatchableRequest("same", 1, item, run)) for item in (0, 1, 2)]
    assert futures[0].result(5).value == 0 and futures[2].result(5).value == 2
    with pytest.raises(LatentRelayError, match="This one"):
        futures[1].result(5)
    assert queue.close(0)


def test_the_header_and_back() -> None:
    for computed in (("float32", ()), ("bfloat16", ("float16",))):
        assert parse_computed(pack_computed(*computed)) == computed
    for odd in ("", "<b>", "float32; overflowed=<script>", "float32; x"):
        assert parse_computed(odd) is None
