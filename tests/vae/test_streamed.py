"""The streamed VAE against plain diffusers, over random architectures; its memory against its plan."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, VQModel
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from backend.errors import OutOfMemoryError, UnsupportedVAEError
from backend.models import LatentSpec
from backend.vae.streamed import Streamed, plan
from backend.vae.streamed import arena as arena_module
from backend.vae.streamed.arena import Arena
from backend.vae.streamed.kernels import blocked_attention, phase_conv, upsampling_conv, winograd_conv
from backend.vae.streamed.statistics import RunConstants, Statistics
from backend.vae.whole import Whole
from benchmarks.streamed import allocated_peak

BUILTIN = {"channels": (24, 48, 96, 128), "groups": 2, "layers": 1, "attention": False}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny layers gain nothing from threads, and on a busy machine threads wait for each other at every one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build(
    channels: tuple[int, ...],
    groups: int,
    layers: int = 1,
    *,
    attention: bool = True,
    quant: bool = True,
    latents: int = 4,
    seed: int = 0,
) -> Any:
    """An AutoencoderKL with random weights, of the SD family's shape."""
    torch.manual_seed(seed)
    module = AutoencoderKL(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        layers_per_block=layers,
        norm_num_groups=groups,
        latent_channels=latents,
        use_quant_conv=quant,
        use_post_quant_conv=quant,
        mid_block_add_attention=attention,
    ).eval()
    for layer in module.modules():
        if isinstance(layer, nn.GroupNorm):  # the default 1 and 0 would hide a mix-up of channels
            nn.init.normal_(layer.weight, 1.0, 0.2)
            nn.init.normal_(layer.bias, 0.0, 0.2)
    return module.requires_grad_(False)


def spec_of(module: Any) -> LatentSpec:
    return LatentSpec(
        module.config.latent_channels, 2 ** (len(module.config.block_out_channels) - 1), 0.5, 0.1
    )


def picture(height: int, width: int, batch: int = 1) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(3)) * 2 - 1


def codes(module: Any, height: int, width: int, batch: int = 1) -> Tensor:
    shape = (batch, module.config.latent_channels, height, width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(4))


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak: the range of b."""
    a, b = a.double(), b.double()
    error = float((a - b).pow(2).mean())
    return math.inf if error == 0 else 10 * math.log10(float(b.max() - b.min()) ** 2 / error)


@st.composite
def architectures(draw: st.DrawFn) -> Any:
    groups = draw(st.sampled_from([1, 2, 4]))
    multiples = st.integers(1, 6).map(lambda n: n * groups * 2)
    return build(
        tuple(draw(st.lists(multiples, min_size=1, max_size=4))),
        groups,
        draw(st.integers(1, 2)),
        attention=draw(st.booleans()),
        quant=draw(st.booleans()),
        latents=draw(st.sampled_from([3, 4, 16])),
        seed=draw(st.integers(0, 99)),
    )


options = st.fixed_dictionaries(
    {},
    optional={
        "strip_bytes": st.sampled_from([1, 1000, 6000, 20000]),
        "recompute": st.booleans(),
        "host": st.just(True),
    },
)


# ---- the same numbers as diffusers


@settings(deadline=None, max_examples=30)
@given(architectures(), options, st.integers(8, 45), st.integers(8, 45), st.integers(1, 2))
def test_any_architecture_size_and_strip_equals_diffusers(
    module: Any, chosen: dict[str, Any], height: int, width: int, batch: int
) -> None:
    spec = spec_of(module)
    whole, streamed = Whole(module, spec), Streamed(module, spec, **chosen)
    image, latents = picture(height, width, batch), codes(module, 1 + height // 12, 1 + width // 12, batch)
    assert_same(streamed.encode(image), whole.encode(image))
    with torch.inference_mode():  # without the clamp of `decode`
        assert_same(streamed._decode(latents), whole._decode(latents))


def assert_same(result: Tensor, expected: Tensor) -> None:
    assert result.shape == expected.shape
    assert result.dtype == expected.dtype
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)
    # Activations are of size one: a few roundings of those are no fault in an output of three numbers near each other.
    if (
        float((result.double() - expected.double()).square().mean().sqrt())
        > 16 * torch.finfo(torch.float32).eps
    ):
        assert expected.std() <= 0.01 or psnr(result, expected) >= 110  # nearly constant ones have no peak


@pytest.mark.parametrize("direction", ["encode", "decode"])
@pytest.mark.parametrize("shape", [BUILTIN, {"channels": (32, 64, 128, 128), "groups": 32, "layers": 2}])
def test_every_way_of_running_gives_the_same_within_rounding(direction: str, shape: dict[str, Any]) -> None:
    module = build(**shape)
    spec = spec_of(module)
    given = picture(56, 72) if direction == "encode" else codes(module, 7, 9)
    expected = getattr(Streamed(module, spec), direction)(given)
    for strip_bytes in (1, 4_000, 10**9):
        for recompute in (False, True):
            for host in (False, True):
                vae = Streamed(module, spec, strip_bytes=strip_bytes, recompute=recompute, host=host)
                assert psnr(getattr(vae, direction)(given), expected) > 115, (strip_bytes, recompute, host)


@pytest.mark.parametrize("direction", ["encode", "decode"])
def test_host_memory_goes_back_to_the_system_when_a_run_is_over(
    direction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By then no view may hold it any more, or torch would keep what was pinned for the life of the process."""
    module = build(**BUILTIN)
    vae = Streamed(module, spec_of(module), host=True)
    shape = (1, 3, 64, 64) if direction == "encode" else (1, 4, 16, 16)
    made: list[StorageWeakRef] = []
    begin = Arena.__init__

    def watched(arena: Arena, *args: Any, **kwargs: Any) -> None:
        begin(arena, *args, **kwargs)
        made.append(StorageWeakRef(arena.buffer.untyped_storage()))

    alive: list[bool] = []
    monkeypatch.setattr(Arena, "__init__", watched)
    monkeypatch.setattr(arena_module, "empty_pinned_cache", lambda _: alive.append(not made[0].expired()))
    getattr(vae, direction)(torch.zeros(shape))
    assert alive == [False]


def half_formats() -> list[Any]:
    def runs(dtype: torch.dtype) -> bool:
        try:
            nn.functional.conv2d(torch.ones(1, 1, 4, 4, dtype=dtype), torch.ones(1, 1, 3, 3, dtype=dtype))
        except RuntimeError:
            return False
        return True

    return [
        pytest.param(d, marks=pytest.mark.skipif(not runs(d), reason=f"no {d} convolution on this processor"))
        for d in (torch.bfloat16, torch.float16)
    ]


@pytest.mark.parametrize("dtype", half_formats())
@pytest.mark.parametrize("direction", ["encode", "decode"])
def test_half_precision_is_as_near_to_float32_as_diffusers_is(dtype: torch.dtype, direction: str) -> None:
    gaps = []
    for seed in range(8):  # one model's rounding errors are a sample (±0.3 dB); the average is what counts
        wide = build((16, 32, 64), 8, seed=seed).to(dtype).float()
        narrow = build((16, 32, 64), 8, seed=seed).to(dtype)
        given = (picture(64, 64, 4) if direction == "encode" else codes(wide, 16, 16, 2)).to(dtype)
        spec = spec_of(wide)
        with torch.inference_mode():
            exact = getattr(Whole(wide, spec), "_" + direction)(given.float())
            theirs = psnr(getattr(Whole(narrow, spec), "_" + direction)(given).float(), exact)
            vae = Streamed(narrow, spec, strip_bytes=20_000)
            gaps.append(psnr(getattr(vae, "_" + direction)(given).float(), exact) - theirs)
    assert sum(gaps) / len(gaps) > -0.1


def test_a_wide_model_takes_the_fast_convolutions_and_stays_exact() -> None:
    module = build((256, 288), 32)
    spec = spec_of(module)
    streamed, whole = Streamed(module, spec, strip_bytes=100_000), Whole(module, spec)
    image = picture(22, 26)
    assert psnr(streamed.encode(image), whole.encode(image)) >= 110
    latents = codes(module, 11, 13)
    with torch.inference_mode():
        assert psnr(streamed._decode(latents), whole._decode(latents)) >= 110


@pytest.mark.parametrize("rows", [1, 2, 5, 6])
def test_fewer_multiplications_give_the_same_convolution(rows: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(7, 5, 3, padding=1).requires_grad_(False)
    x = torch.randn(1, 7, rows, 9)
    window = nn.functional.pad(x, (0, 0, 1, 1)).to(memory_format=torch.channels_last)
    torch.testing.assert_close(winograd_conv(conv)(window), conv(x), rtol=1e-4, atol=1e-5)
    doubled = nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")
    torch.testing.assert_close(phase_conv(conv)(window), conv(doubled), rtol=1e-4, atol=1e-5)
    narrow = conv.to(torch.bfloat16)
    expected = narrow(doubled.bfloat16())
    torch.testing.assert_close(upsampling_conv(narrow)(window.bfloat16()), expected, rtol=2e-2, atol=2e-2)


def test_statistics_of_strips_are_those_of_the_map_even_far_from_zero() -> None:
    x = torch.randn(1, 8, 31, 17) * 0.01 + 1000
    gathered = Statistics(RunConstants(x.device, [nn.GroupNorm(4, 8)]))
    for strip in x.split([1, 13, 2, 15], dim=2):
        gathered.update(strip.contiguous(memory_format=torch.channels_last))
    mean, variance = gathered.groups(4)
    exact = x.double().view(4, 2, -1).flatten(1)
    torch.testing.assert_close(mean.view(4, 2)[:, 0].double(), exact.mean(1), rtol=1e-6, atol=0)
    torch.testing.assert_close(
        variance.view(4, 2)[:, 1].double(), exact.var(1, correction=0), rtol=1e-2, atol=0
    )


# ---- no seams


def test_no_seam_at_strip_borders() -> None:
    module = build(**BUILTIN)
    latents = codes(module, 16, 16)
    with torch.inference_mode():
        exact = Whole(module, spec_of(module))._decode(latents)
        streamed = Streamed(module, spec_of(module), strip_bytes=24 * 128 * 4 * 16)
        error = (streamed._decode(latents) - exact).abs()
    rows = streamed.plan("decode", 1, 128, 128).steps[-1].rows
    assert rows == 16
    by_row = error.amax(dim=(0, 1, 3))
    borders = by_row[rows - 1 :: rows].maximum(by_row[rows - 2 :: rows][: len(by_row[rows - 1 :: rows])])
    assert by_row.max() < 1e-4
    assert borders.mean() < 2 * by_row.mean()


@pytest.mark.parametrize(("queries", "keys", "heads"), [(3, 5, 1), (700, 2500, 1), (513, 1025, 2)])
def test_attention_in_blocks_is_attention(queries: int, keys: int, heads: int) -> None:
    """Blocks that do not divide the sizes, and scores so large that only the rescaled sums stay finite."""
    generator = torch.Generator().manual_seed(5)
    q = torch.randn((1, heads, queries, 16), generator=generator) * 30
    k, v = (torch.randn((1, heads, keys, 16), generator=generator) for _ in "kv")
    exact = torch.nn.functional.scaled_dot_product_attention(q.double(), k.double(), v.double())
    assert (blocked_attention(q, k, v) - exact).abs().max() < 1e-4


# ---- memory


@pytest.mark.parametrize("direction", ["encode", "decode"])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_measured_peak_is_the_planned_one(direction: str, recompute: bool, dtype: torch.dtype) -> None:
    module = build((32, 64, 64), 32, 2).to(dtype)
    vae = Streamed(module, spec_of(module), recompute=recompute, strip_bytes=200_000)
    given = (picture(256, 256, 2) if direction == "encode" else codes(module, 64, 64, 2)).to(dtype)
    work: Callable[[Tensor], Tensor] = getattr(vae, "_" + direction)
    with torch.inference_mode():
        measured = allocated_peak(lambda: work(given), torch.device("cpu"))
    planned = vae.plan(direction, 2, 256, 256).peak_bytes  # type: ignore[arg-type]
    assert measured is not None
    assert 0.98 * measured <= planned <= 1.08 * measured


def test_the_maps_of_the_sd_family_take_what_the_docs_say() -> None:
    """Elements a pixel: 256 kept; recomputed, 192 for decode and 128 for encode. Untiled holds 768 and 512."""
    with torch.device("meta"):
        module = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
        )
    for direction, recompute, elements in (
        ("decode", False, 256),
        ("encode", False, 256),
        ("decode", True, 192),
        ("encode", True, 128),
    ):
        found = plan(module, 1024, 1024, direction=direction, recompute=recompute)  # type: ignore[arg-type]
        assert found.arena_elements == elements * 1024**2
    large = plan(module, 4096, 4096, direction="decode", dtype=torch.float16, device="cuda", host=True)
    assert large.host_bytes == large.arena_bytes
    assert large.peak_bytes < 2 * 2**30


def test_a_cap_is_kept_by_smaller_strips_then_recomputing_and_refused_below_the_floor() -> None:
    module = build(**BUILTIN)
    spec = spec_of(module)
    free = plan(module, 256, 256, direction="decode")
    tight = plan(module, 256, 256, direction="decode", max_memory=free.peak_bytes - 1)
    assert tight.peak_bytes < free.peak_bytes
    assert tight.strip_target < free.strip_target
    assert not tight.recompute
    tighter = plan(module, 256, 256, direction="decode", max_memory=tight.arena_bytes)
    assert tighter.recompute
    assert tighter.peak_bytes <= tight.arena_bytes
    latents = codes(module, 32, 32)
    expected = Whole(module, spec).decode(latents)
    assert psnr(Streamed(module, spec, max_memory=tighter.peak_bytes).decode(latents), expected) > 110
    with pytest.raises(OutOfMemoryError, match="takes at least"):
        Streamed(module, spec, max_memory=1000).decode(latents)


def test_the_module_is_left_as_it_was() -> None:
    module = build(**BUILTIN)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    Streamed(module, spec_of(module)).encode(picture(32, 32))
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())


# ---- refusals


def test_an_unknown_vae_is_refused_with_a_sentence() -> None:
    spec = LatentSpec(channels=4, downscale=8, scaling_factor=1.0)
    with pytest.raises(UnsupportedVAEError, match="AutoencoderTiny is not built like an AutoencoderKL"):
        Streamed(AutoencoderTiny(), spec)
    with pytest.raises(UnsupportedVAEError, match="VQModel is not built like an AutoencoderKL"):
        Streamed(VQModel(norm_num_groups=8), spec)
    module = build((8, 16), 4)
    module.decoder.up_blocks[0] = nn.Identity()
    with pytest.raises(UnsupportedVAEError, match="the unknown block Identity"):
        Streamed(module, spec)
    module = build((8, 16), 4)
    module.encoder.down_blocks[0].resnets[0].nonlinearity = nn.ReLU()
    with pytest.raises(UnsupportedVAEError, match="residual blocks is not the plain kind"):
        Streamed(module, spec)
    module = build((8, 16), 4)
    module.decoder.mid_block.attentions[0].rescale_output_factor = 2.0
    with pytest.raises(UnsupportedVAEError, match="attention is not the plain kind"):
        Streamed(module, spec)


# ---- GPUs


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("direction", ["encode", "decode"])
@pytest.mark.parametrize("host", [False, True])
def test_on_a_gpu_the_result_and_the_peak_hold(direction: str, host: bool) -> None:
    device = torch.device("cuda")
    module = build((64, 128, 128), 32, 2).to(device)
    vae = Streamed(module, spec_of(module), host=host, strip_bytes=1 << 20)
    given = (picture(256, 192) if direction == "encode" else codes(module, 64, 48)).to(device)
    with torch.inference_mode():
        expected = getattr(Whole(module, spec_of(module)), "_" + direction)(given)
        assert psnr(getattr(vae, "_" + direction)(given), expected) > 90  # TF32 convolutions, where allowed
        peak = allocated_peak(lambda: getattr(vae, "_" + direction)(given), device)
    assert peak is not None
    assert peak < 1.5 * vae.plan(direction, 1, 256, 192).peak_bytes  # type: ignore[arg-type]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("direction", ["encode", "decode"])
def test_on_a_gpu_the_host_waits_for_nothing_between_the_strips(direction: str) -> None:
    device = torch.device("cuda")
    module = build((64, 128, 128), 32, 2).to(device, torch.float16)
    vae = Streamed(module, spec_of(module), strip_bytes=1 << 20)
    given = (picture(256, 192) if direction == "encode" else codes(module, 64, 48)).to(device, torch.float16)
    run = getattr(vae, "_" + direction)
    with torch.inference_mode():
        run(given)  # libraries are loaded
        torch.cuda.set_sync_debug_mode("error")
        try:
            run(given)
        finally:
            torch.cuda.set_sync_debug_mode("default")
