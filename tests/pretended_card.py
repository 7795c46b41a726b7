"""A CUDA card that is only pretended: tensors with shape, dtype and device, and no data.

    with PretendedCard() as card:
        vae = local_vae("whole", card.vae(SD_V1), SD_V1.latents)
        vae.decode(torch.randn(1, 4, 128, 128))
    card.launches, card.syncs

Full-size models fit into nothing that way. What a card would refuse is refused here: tensors on two devices in one
operation, and products and convolutions of two dtypes. What makes the host wait for a card is counted, and so are the
kernels and the allocations. Not there: values, streams, pinned memory, the allocator's own statistics, cuDNN's
workspaces.

Built on torch's FakeTensorMode, which lets tensors be "on cuda" in a build without CUDA as well.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from backend.models import ModelSpec

CARD = torch.device("cuda", 0)
_LIBC10 = "libc10.so" if sys.platform == "linux" else "libc10.dylib"
_CUDA, _META = 1, 14  # of c10::DeviceType

_READS = {
    torch.Tensor.item,
    torch.Tensor.tolist,
    torch.Tensor.__bool__,
    torch.Tensor.__int__,
    torch.Tensor.__float__,
    torch.Tensor.__index__,
    torch.equal,
}
"""Need the values on the host, so it waits for the card."""

_ONE_DTYPE = {
    *("mm", "addmm", "bmm", "baddbmm", "addbmm", "dot", "matmul", "linear", "scaled_dot_product_attention"),
    *(
        "convolution",
        "conv2d",
        "conv3d",
        "native_group_norm",
        "group_norm",
        "native_layer_norm",
        "layer_norm",
    ),
}
"""Operations that refuse operands of two floating dtypes on a card; FakeTensorMode lets some of them through."""

_NO_KERNEL = {
    *("empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided", "set_", "resize_"),
    "dropout",
}
"""Memory without a value; and what a network in eval mode hands through."""


class DtypeMismatchError(AssertionError):
    """An operation of two floating dtypes that a card would refuse."""


class PretendedCard:
    """While inside, `cuda:0` can be computed on. `launches` and `syncs` count what happened there."""

    def __init__(self) -> None:
        self.kernels: Counter[str] = Counter()
        """Launches by the name of the operation."""
        self.syncs: Counter[str] = Counter()
        """What made the host wait for the card, copies from and to pageable memory included."""
        self.work: list[tuple[int, int]] = []
        """Multiply-adds, and bytes read and written, of each launch."""
        self.layout_bytes = 0
        """Rewritten only to change between NCHW and NHWC."""
        self._stack = contextlib.ExitStack()

    @property
    def launches(self) -> int:
        return sum(self.kernels.values())

    def record(self, name: str, inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> None:
        """Count one launch."""
        self.kernels[name] += 1
        self.work.append((_multiply_adds(name, inputs, outputs), sum(map(_bytes, (*inputs, *outputs)))))
        self.layout_bytes += _layout_bytes(name, inputs, outputs)

    def forget(self) -> None:
        """Count from nothing."""
        self.kernels.clear()
        self.syncs.clear()
        self.work.clear()
        self.layout_bytes = 0

    def __enter__(self) -> PretendedCard:
        _lend_device_guard()
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        self._stack.enter_context(self._fake)
        self._stack.enter_context(_Operations(self))
        self._stack.enter_context(_Calls(self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def place(self, module: torch.nn.Module, dtype: torch.dtype, device: torch.device = CARD) -> Any:
        """The module with weights of that dtype on the card, in eval mode."""

        def moved(tensor: torch.Tensor) -> torch.Tensor:
            return torch.empty(
                tensor.shape, dtype=dtype if tensor.is_floating_point() else tensor.dtype, device=device
            )

        for part in module.modules():
            for name, weight in part._parameters.items():
                if weight is not None:
                    part._parameters[name] = torch.nn.Parameter(moved(weight), requires_grad=False)
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    part._buffers[name] = moved(buffer)
        return module.eval()

    def vae(self, spec: ModelSpec, dtype: torch.dtype | None = None, **config: Any) -> Any:
        """The model's AutoencoderKL in its real size, on the card in its published dtype."""
        with torch.device("meta"):
            module = AutoencoderKL.from_config(VAE_CONFIGS[spec.family] | config)
        return self.place(module, dtype or getattr(torch, spec.dtype))

    def tiny_vae(self, spec: ModelSpec, dtype: torch.dtype | None = None) -> Any:
        """The AutoencoderTiny that replaces it (TAESD's default widths)."""
        with torch.device("meta"):
            module = AutoencoderTiny(latent_channels=spec.latents.channels)
        return self.place(module, dtype or getattr(torch, spec.dtype))


def _vae_config(channels: int, scaling: float, force_upcast: bool, **more: Any) -> dict[str, Any]:
    return {
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "latent_channels": channels,
        "norm_num_groups": 32,
        "scaling_factor": scaling,
        "force_upcast": force_upcast,
        **more,
    }


VAE_CONFIGS: Mapping[str, dict[str, Any]] = {
    "sd": _vae_config(4, 0.18215, True, sample_size=512),
    "sdxl": _vae_config(4, 0.13025, True, sample_size=1024),
    "flux": _vae_config(
        16,
        0.3611,
        True,
        sample_size=1024,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ),
}
"""The configs of sd-vae-ft-mse, SDXL's stock VAE and FLUX.1's, as their repositories hold them."""


class _Calls(TorchFunctionMode):
    """What Python asks of torch: here are the calls that wait for the card, or need one to be there."""

    def __init__(self, card: PretendedCard) -> None:
        super().__init__()
        self.card = card

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", str(func))
        if func in _READS and any(_on_card(tensor) for tensor in args):
            self.card.syncs[name] += 1
            return _read(func, args[0])
        if func is torch.equal:
            return True  # of tensors without data in host memory
        if func is torch.tensor and torch.device(kwargs.get("device") or "cpu").type == "cuda":
            self.card.syncs["torch.tensor"] += 1
            made = func(*args, **kwargs | {"device": "cpu"})
            return torch.empty(made.shape, dtype=made.dtype, device=CARD)
        if func is torch.batch_norm_update_stats and _on_card(args[0]):
            return self._update_stats(*args, **kwargs)
        if func is torch.Tensor.pin_memory:
            return args[0]
        if func in (torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.cuda, torch.Tensor.copy_):
            return self._copy(func, args, kwargs)
        return func(*args, **kwargs)

    def _copy(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        # A device without a number would be looked up in CUDA's runtime, which is not there.
        args = [CARD if _unnumbered(one) else one for one in args]
        kwargs = {key: CARD if _unnumbered(value) else value for key, value in kwargs.items()}
        if func is torch.Tensor.cuda:
            func, args = torch.Tensor.to, [args[0], CARD]
        source = args[1] if func is torch.Tensor.copy_ else args[0]
        result = func(*args, **kwargs)
        ways = {"copy to the card": (False, True), "copy from the card": (True, False)}
        for way, ends in ways.items():
            if (_on_card(source), _on_card(result)) == ends and not kwargs.get("non_blocking"):
                self.card.syncs[way] += 1
        return result

    def _update_stats(
        self, strip: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor, momentum: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """There is no fake kernel for it."""
        assert _on_card(mean) and _on_card(variance), "the running statistics lie elsewhere"
        statistics = torch.empty_like(mean), torch.empty_like(variance)
        self.card.record("batch_norm_update_stats", (strip,), statistics)
        return statistics


class _Operations(TorchDispatchMode):
    """What reaches a device: counted, and refused where a card would."""

    def __init__(self, card: PretendedCard) -> None:
        super().__init__()
        self.card = card

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func._schema.name.removeprefix("aten::")
        if name.startswith("prim::"):
            return func(*args, **(kwargs or {}))
        inputs = _tensors((args, kwargs))
        if name in _ONE_DTYPE:
            dtypes = {str(tensor.dtype) for tensor in inputs if tensor.is_floating_point()}
            if len(dtypes) > 1:
                raise DtypeMismatchError(f"{name} of {' and '.join(sorted(dtypes))}")
        before = {tensor.untyped_storage()._cdata for tensor in inputs}
        result = func(*args, **(kwargs or {}))
        if name in ("conv2d", "convolution") and any(map(_is_nhwc, inputs[:2])):
            # As cuDNN's results are; a build without CUDA does not know.
            result = torch.empty_like(result, memory_format=torch.channels_last)
        outputs = _tensors(result)
        computes = func._schema.is_mutable or any(t.untyped_storage()._cdata not in before for t in outputs)
        if computes and name not in _NO_KERNEL and any(map(_on_card, (*inputs, *outputs))):
            self.card.record(name, inputs, outputs)
        return result


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _lend_device_guard() -> None:
    """Python's bindings switch to a tensor's device before most calls; a build without CUDA has nothing to do so.

    The meta device's guard does nothing, and that is right for tensors without data. torch keeps one pointer a device
    type in a table; CUDA's entry is filled once, and only where it is empty.
    """
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / _LIBC10))
    guards = (ctypes.c_void_p * 16).in_dll(library, "_ZN3c104impl26device_guard_impl_registryE")
    if not guards[_CUDA]:
        guards[_CUDA] = guards[_META]


def _multiply_adds(name: str, inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> int:
    """Of a convolution or linear layer (input, weight, …), an attention (query, key, value) or a matrix product."""
    if name in ("conv2d", "convolution", "linear"):
        return outputs[0].numel() * prod(inputs[1].shape[1:])
    if name == "scaled_dot_product_attention":
        return 2 * inputs[0].numel() * inputs[1].shape[-2]
    if name in ("mm", "mv", "bmm", "matmul"):
        return outputs[0].numel() * inputs[0].shape[-1]
    return 0


def _layout_bytes(name: str, inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> int:
    """Tensor cores convolve NHWC, so a convolution rearranges what comes or goes otherwise; CUDA's group norm works on
    NCHW. A copy counts if its two ends differ in nothing but the layout."""
    if name in ("conv2d", "convolution"):
        return sum(_bytes(t) for t in (*inputs[:2], outputs[0]) if not _is_nhwc(t))
    if name in ("group_norm", "native_group_norm"):
        return _bytes(inputs[0]) * (not inputs[0].is_contiguous())
    if name in ("clone", "contiguous", "copy_", "to"):
        source, made = inputs[-1], outputs[0]
        if made.ndim == 4 and (source.shape, source.dtype) == (made.shape, made.dtype):
            return _bytes(made) * (_is_nhwc(source) != _is_nhwc(made))
    return 0


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.dtype.itemsize


def _is_nhwc(tensor: torch.Tensor) -> bool:
    """Channels next to each other."""
    return tensor.stride(1) == 1 or tensor.shape[1] == 1


def _on_card(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.device.type == "cuda"


def _unnumbered(value: object) -> bool:
    if value == "cuda":
        return True
    return isinstance(value, torch.device) and value.type == "cuda" and value.index is None


def _read(func: Any, tensor: torch.Tensor) -> Any:
    """A value that stands for "all is well": there are none."""
    if func is torch.equal or tensor.dtype == torch.bool:
        return True
    return [0] * tensor.numel() if func is torch.Tensor.tolist else 0
