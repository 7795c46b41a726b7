"""Stable Diffusion v1's first layout: everything in one `.safetensors`, named as the original repository named it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def save_checkpoint(pipeline: Any, path: Path) -> None:
    """A diffusers Stable Diffusion pipeline's weights as such a file."""
    tensors: dict[str, torch.Tensor] = {}
    layers = pipeline.unet.config.layers_per_block
    for name, tensor in pipeline.unet.state_dict().items():
        tensors[f"model.diffusion_model.{unet_name(name, layers)}"] = tensor
    levels = len(pipeline.vae.config.block_out_channels)
    for name, tensor in pipeline.vae.state_dict().items():
        ours = vae_name(name, levels)
        if ".attn_1." in ours and tensor.ndim == 2:
            tensor = tensor[:, :, None, None]  # its attention was written as convolutions of one pixel
        tensors[f"first_stage_model.{ours}"] = tensor
    for name, tensor in pipeline.text_encoder.state_dict().items():
        tensors[f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}"] = tensor
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, str(path))


def unet_name(name: str, layers: int) -> str:
    """diffusers' name of a UNet2DConditionModel's tensor to openaimodel.UNetModel's; all blocks that grow attend."""
    for ours, theirs in {
        "conv_in.": "input_blocks.0.0.",
        "time_embedding.linear_1.": "time_embed.0.",
        "time_embedding.linear_2.": "time_embed.2.",
        "conv_norm_out.": "out.0.",
        "conv_out.": "out.2.",
    }.items():
        if name.startswith(ours):
            return name.replace(ours, theirs, 1)
    parts = re.match(r"(down_blocks|up_blocks)\.(\d+)\.(\w+)\.(\d+)\.(.*)", name)
    if parts is None:
        part, index, rest = re.match(r"mid_block\.(\w+)\.(\d+)\.(.*)", name).groups()  # type: ignore[union-attr]
        place = 1 if part == "attentions" else 2 * int(index)
        return f"middle_block.{place}.{_resnet(rest) if part == 'resnets' else rest}"
    side, level, part, index, rest = parts[1], int(parts[2]), parts[3], int(parts[4]), parts[5]
    rest = _resnet(rest) if part == "resnets" else rest
    if side == "down_blocks":
        if part == "downsamplers":
            return f"input_blocks.{(layers + 1) * (level + 1)}.0.op.{rest.removeprefix('conv.')}"
        return f"input_blocks.{1 + (layers + 1) * level + index}.{int(part == 'attentions')}.{rest}"
    if part == "upsamplers":
        return f"output_blocks.{(layers + 1) * level + layers}.2.{rest}"
    return f"output_blocks.{(layers + 1) * level + index}.{int(part == 'attentions')}.{rest}"


def _resnet(rest: str) -> str:
    part, _, end = rest.rpartition(".")
    return f"{_RESNET[part]}.{end}"


def vae_name(name: str, levels: int) -> str:
    """diffusers' name of an AutoencoderKL's tensor to the original autoencoder's."""
    name = name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    if "mid_block.attentions.0." in name:
        for ours, theirs in _ATTENTION.items():
            name = name.replace(f"attentions.0.{ours}.", f"attentions.0.{theirs}.")
        name = name.replace("mid_block.attentions.0.", "mid.attn_1.")
    name = re.sub(r"down_blocks\.(\d)\.resnets\.", r"down.\1.block.", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0\.", r"down.\1.downsample.", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets\.", lambda m: f"up.{levels - 1 - int(m[1])}.block.", name)
    return re.sub(
        r"up_blocks\.(\d)\.upsamplers\.0\.", lambda m: f"up.{levels - 1 - int(m[1])}.upsample.", name
    )
