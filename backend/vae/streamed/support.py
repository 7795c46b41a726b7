"""Which VAEs can be streamed: those built only of layers that `strips` knows. Modules are recognised by their names and
attributes, so nothing of diffusers is imported.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from backend.errors import UnsupportedVAEError
from backend.message import Message

_PLAIN_CONV = (1, "zeros", (1, 1))  # groups, padding mode, dilation


def check_supported(module: Any) -> None:
    """Raise UnsupportedVAEError with a plain sentence unless every layer of `module` is one that `strips` knows."""
    name = type(module).__name__
    for part, blocks in (("encoder", "down_blocks"), ("decoder", "up_blocks")):
        net = getattr(module, part, None)
        # A VQModel has the same two parts, but quantises between them.
        if type(net).__name__ != part.capitalize() or hasattr(module, "quantize"):
            raise UnsupportedVAEError(
                "{kind} is not built like an AutoencoderKL, so it cannot be streamed.", kind=name
            )
        for problem in _problems(net, blocks):
            raise UnsupportedVAEError(
                "This {kind} cannot be streamed: {problem}.", kind=name, problem=problem
            )


def _problems(net: Any, blocks: str) -> Iterator[Message]:
    known = {"DownEncoderBlock2D", "UpDecoderBlock2D", "UNetMidBlock2D"}
    for block in (*getattr(net, blocks), net.mid_block):
        if type(block).__name__ not in known:
            yield Message("it contains the unknown block {block}", block=type(block).__name__)
            return
    for resnet in _resnets(net, blocks):
        plain = type(resnet).__name__ == "ResnetBlock2D" and isinstance(resnet.nonlinearity, nn.SiLU)
        if not plain or resnet.time_emb_proj is not None or resnet.output_scale_factor != 1:
            yield Message("one of its residual blocks is not the plain kind")
        if resnet.upsample is not None or resnet.downsample is not None:
            yield Message("one of its residual blocks changes the size")
    for attention in net.mid_block.attentions:
        if attention is not None and not _plain_attention(attention):
            yield Message("its attention is not the plain kind")
    for block in getattr(net, blocks):
        for layers in (getattr(block, "upsamplers", None), getattr(block, "downsamplers", None)):
            for layer in layers or ():
                if not _plain_resampling(layer):
                    yield Message("its {layer} is not the plain kind", layer=type(layer).__name__)
    if not (isinstance(net.conv_norm_out, nn.GroupNorm) and isinstance(net.conv_act, nn.SiLU)):
        yield Message("its last norm is not a GroupNorm followed by SiLU")
    for conv in net.modules():
        if isinstance(conv, nn.Conv2d) and (conv.groups, conv.padding_mode, conv.dilation) != _PLAIN_CONV:
            yield Message("one of its convolutions is not the plain kind")


def _resnets(net: Any, blocks: str) -> Iterator[Any]:
    for block in (*getattr(net, blocks), net.mid_block):
        yield from block.resnets


def _plain_resampling(layer: Any) -> bool:
    conv = getattr(layer, "conv", None)
    padding = (0, 0) if type(layer).__name__ == "Downsample2D" else (1, 1)
    return (
        isinstance(conv, nn.Conv2d)
        and conv.in_channels == conv.out_channels
        and conv.kernel_size == (3, 3)
        and conv.padding == padding
        and layer.norm is None
    )


def _plain_attention(layer: Any) -> bool:
    return (
        isinstance(layer.group_norm, nn.GroupNorm)
        and layer.spatial_norm is None
        and layer.norm_q is None
        and layer.norm_k is None
        and layer.residual_connection
        and layer.rescale_output_factor == 1
    )
