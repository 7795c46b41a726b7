"""What the server says of itself, batching, and the scale of AutoencoderTiny."""

from __future__ import annotations

import threading

import pytest
import requests
import torch
from diffusers import AutoencoderTiny
from prometheus_client.parser import text_string_to_metric_families

from backend.device.allocations import measure_allocations
from backend.device.queue import DeviceQueue
from backend.endpoint import Limits, Served, Service, build_app
from backend.models import BUILTIN, LatentSpec
from backend.vae.whole import Whole
from backend.wire import pack_tensor
from tests.endpoint.test_app import BODY, SHAPE, Slow, wait_for
from tests.serving import serve


def samples(url: str) -> dict[tuple[str, ...], float]:
    text = requests.get(f"{url}/metrics", timeout=10).text
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_count_what_happened(builtin: Whole) -> None:
    with serve(build_app(Service([Served("only", builtin.spec, lambda: builtin)]))) as url:
        assert requests.post(f"{url}/vae/only/decode?{SHAPE}", data=BODY, timeout=10).status_code == 200
        requests.post(f"{url}/vae/only/decode?{SHAPE}", data=b"", timeout=10)
        for name in ("made-up-1", "made-up-2"):
            requests.post(f"{url}/vae/{name}/decode", timeout=10)
        found = samples(url)
    assert found["latent_relay_requests_total", "decode", "200", "only"] == 1
    assert found["latent_relay_requests_total", "decode", "400", "only"] == 1
    # Names that a client makes up must not become series.
    assert found["latent_relay_requests_total", "", "404", ""] == 2
    assert found["latent_relay_bytes_total", "decode", "received", "only"] == len(BODY)
    assert found["latent_relay_stage_seconds_count", "decode", "compute", "only"] == 1
    assert found["latent_relay_peak_memory_bytes", "decode", "RAM", "only"] == pytest.approx(
        own_peak(builtin), 0.01
    )
    assert found["latent_relay_queue_length", "0"] == 0 and found["latent_relay_places_taken", "0"] == 0


def own_peak(builtin: Whole) -> int | None:
    """What torch allocates for a decode of that BODY, but for its few latents in another scaling."""
    latents = torch.zeros(1, 4, 16, 16)
    with measure_allocations() as peak:
        builtin.decode(latents)
    return peak.bytes


def test_a_reply_has_its_peak_memory(base: str, builtin: Whole) -> None:
    response = requests.post(f"{base}/vae/builtin/decode?{SHAPE}", data=BODY, timeout=10)
    number, _, kind = response.headers["x-peak-memory"].partition("; kind=")
    assert int(number) == pytest.approx(own_peak(builtin), 0.01) and kind == "RAM"


def test_openapi_names_every_path_that_is_there(base: str) -> None:
    document = requests.get(f"{base}/openapi.json", timeout=10).json()
    assert document["openapi"].startswith("3.1") and "/" not in document["paths"]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            url = base + path.replace("{model}", "builtin")
            assert requests.request(method, url, timeout=10).status_code not in (404, 405), (method, path)
            assert operation["summary"] and "200" in operation["responses"]
    decode = document["paths"]["/vae/{model}/decode"]["post"]
    assert {parameter["name"] for parameter in decode["parameters"]} >= {
        "shape",
        "dtype",
        "scaling_factor",
        "height",
    }
    assert decode["parameters"][0]["schema"]["enum"] == ["builtin", "flux"]


def test_waiting_requests_of_equal_shape_are_computed_together(builtin: Whole) -> None:
    slow = Slow(builtin)
    service = Service([Served("only", builtin.spec, lambda: slow)], Limits(batch_pixels=3 * 64 * 64))
    queue = service.queue_of(service.find(None))
    inputs = [torch.randn(1, 4, 16, 16) for _ in range(6)]
    other = torch.randn(1, 4, 16, 17)
    replies: dict[int, requests.Response] = {}
    with serve(build_app(service)) as url:

        def post(index: int, tensor: torch.Tensor) -> None:
            query = "&".join(f"shape={side}" for side in tensor.shape)
            replies[index] = requests.post(
                f"{url}/?{query}&dtype=float32&do_scaling=1&output_type=pt",
                data=pack_tensor(tensor),
                timeout=30,
            )

        threads = [
            threading.Thread(target=post, args=pair) for pair in enumerate([inputs[0], *inputs[1:], other])
        ]
        threads[0].start()
        assert slow.started.wait(10)
        for thread in threads[1:]:
            thread.start()
        wait_for(lambda: queue.waiting == 6)
        slow.go.set()
        for thread in threads:
            thread.join()
    # One alone, three together, two together, and one of another shape.
    assert slow.calls == 4
    assert sorted(reply.headers.get("x-batch", "1") for reply in replies.values()) == [
        "1",
        "1",
        "2",
        "2",
        "3",
        "3",
        "3",
    ]
    for index, tensor in enumerate(inputs):
        image = torch.frombuffer(bytearray(replies[index].content), dtype=torch.float32).reshape(1, 3, 64, 64)
        torch.testing.assert_close(image, builtin.decode(tensor), rtol=0, atol=1e-5)


def test_each_device_has_one_queue(builtin: Whole) -> None:
    one, other = DeviceQueue(), DeviceQueue()
    service = Service(
        [
            Served(name, builtin.spec, lambda: builtin, queue)
            for name, queue in (("a", one), ("b", one), ("c", other))
        ]
    )
    queues = [service.queue_of(service.find(name)) for name in "abc"]
    assert queues[0] is queues[1] and queues[1] is not queues[2]


def test_a_tiny_autoencoder_takes_the_denoisers_latents_as_they_are() -> None:
    # Its "raw" latents are the scaled ones, so a client's factors must not be applied to them.
    torch.manual_seed(0)
    module = AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 1),
    ).eval()
    vae = Whole(module, LatentSpec(4, 8, 1.0))
    served = Served("tiny", vae.spec, lambda: vae, fixed_scale=True)
    latents = torch.randn(1, 4, 16, 16)
    with serve(build_app(Service([served]))) as url:
        for scaling in ("scaling_factor=0.18215", "do_scaling=false", "do_scaling=true"):
            reply = requests.post(
                f"{url}/?{SHAPE}&{scaling}&output_type=pt", data=pack_tensor(latents), timeout=10
            )
            assert reply.content == pack_tensor(vae.decode(latents)), scaling


def test_a_full_disk_of_bytes_is_refused_while_others_are_inside(builtin: Whole) -> None:
    slow = Slow(builtin)
    service = Service([Served("only", builtin.spec, lambda: slow)], Limits(queue_bytes=len(BODY) * 3 // 2))
    with serve(build_app(service)) as url:
        first = threading.Thread(target=lambda: requests.post(f"{url}/?{SHAPE}", data=BODY, timeout=30))
        first.start()
        assert slow.started.wait(10)
        assert requests.post(f"{url}/?{SHAPE}", data=BODY, timeout=10).status_code == 503
        slow.go.set()
        first.join()


@pytest.mark.parametrize("side", [64, 512])
def test_the_largest_allowed_picture_is_served(base: str, side: int) -> None:
    side //= BUILTIN.latents.downscale
    query = f"shape=1&shape=4&shape={side}&shape={side}&dtype=uint8&scaling_factor=100"
    body = bytes(4 * side**2)
    assert requests.post(f"{base}/vae/builtin/decode?{query}", data=body, timeout=60).status_code == 200


def test_the_built_in_models_spec_is_the_one_in_its_config() -> None:
    from backend.endpoint.source import read_config, spec_from_config

    subfolder, config = read_config(BUILTIN.repository)
    assert subfolder == "vae" and spec_from_config(config) == BUILTIN.latents
