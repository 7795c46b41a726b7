"""The small VAE: diffusers' AutoencoderKL (downscale 4, 4 latent channels), started as a working
thumbnail codec.

From random weights the prototype of this model stalled at 17 dB. So this one
starts as "average 4 x 4 blocks, enlarge smoothly" and learns the rest: the
channels of every layer carry +RGB and -RGB (SiLU(a) - SiLU(-a) = a passes the activation unharmed), a
few constants that keep GroupNorm's statistics known, and free features. The latents start as luma, two
colour differences and one free channel, each of about unit deviation, so that they resemble a small
picture: the denoiser profits.
"""

import torch
from diffusers import AutoencoderKL
from torch import nn

from training.settings import VaeSettings

CONSTANT = 1.2
RGB = 3
SIGNED = 2 * RGB

# Latent = LUMA_CHROMA @ rgb. Rows: luma (BT.601), blue minus luma, red minus luma, scaled to unit
# deviation over painted scenes with pixels in [-1, 1].
LUMA = torch.tensor([0.299, 0.587, 0.114])
LUMA_CHROMA = torch.stack(
    [LUMA * 2.1, (torch.tensor([0.0, 0.0, 1.0]) - LUMA) * 2.8, (torch.tensor([1.0, 0.0, 0.0]) - LUMA) * 3.6]
)


def new_autoencoder(settings: VaeSettings) -> AutoencoderKL:
    levels = len(settings.channels)
    vae = AutoencoderKL(
        latent_channels=4,
        block_out_channels=settings.channels,
        layers_per_block=settings.layers,
        norm_num_groups=settings.groups,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        sample_size=256,
        mid_block_add_attention=False,
    )
    start_as_thumbnail(vae, settings)
    return vae


@torch.no_grad()
def start_as_thumbnail(vae: AutoencoderKL, settings: VaeSettings) -> None:
    for name, layer in vae.named_modules():
        if isinstance(layer, nn.Conv2d):
            start_convolution(name, layer)
    for norm, channels in (
        (vae.encoder.conv_norm_out, settings.channels[-1]),
        (vae.decoder.conv_norm_out, settings.channels[0]),
    ):
        norm.weight[:SIGNED] = undo_norm(channels, settings.groups)


def constants_of(channels: int) -> int:
    """How many of a layer's channels hold +CONSTANT and -CONSTANT by turns; even."""
    return channels // 8 * 2


def undo_norm(channels: int, groups: int) -> float:
    """What GroupNorm divides the colours by, from what is known of the first group's channels."""
    size, constants = channels // groups, constants_of(channels)
    colour_variance, feature_variance = 0.25, 0.1
    total = (
        constants * CONSTANT**2 + SIGNED * colour_variance + (size - SIGNED - constants) * feature_variance
    )
    return (total / size) ** 0.5


def start_convolution(name: str, layer: nn.Conv2d) -> None:
    reach = layer.in_channels * layer.kernel_size[0] * layer.kernel_size[1]
    nn.init.normal_(layer.weight, 0, reach**-0.5)
    nn.init.zeros_(layer.bias)
    if name.endswith("conv1"):
        layer.weight *= 1.4
    elif name.endswith("conv2"):  # the residual branches start quiet
        layer.weight *= 0.05
    elif name == "encoder.conv_out":
        colours_out(layer, LUMA_CHROMA)
        layer.weight[3] *= 8.0
        layer.weight[4:] *= 0.1
        layer.bias[4:] = -5.0  # log variance of the latents
    elif name == "decoder.conv_out":
        colours_out(layer, torch.eye(RGB))
    elif name in ("quant_conv", "post_quant_conv"):
        layer.weight.copy_(torch.eye(layer.out_channels)[..., None, None])
    else:
        start_stream(name, layer)


def colours_out(layer: nn.Conv2d, matrix: torch.Tensor) -> None:
    """Rows 0 to 2 become matrix @ rgb, read from the signed colour channels."""
    layer.weight *= 0.05
    layer.weight[:RGB] = 0
    layer.weight[:RGB, :RGB, 1, 1] = matrix
    layer.weight[:RGB, RGB:SIGNED, 1, 1] = -matrix


def start_stream(name: str, layer: nn.Conv2d) -> None:
    """A layer that writes the stream: it hands the signed colours on, averaged or smoothed where it
    resamples.
    """
    layer.weight *= 0.5
    side = layer.kernel_size[0]
    kernel = torch.zeros(side, side)
    if "downsamplers" in name:
        kernel[:2, :2] = 0.25
    elif "upsamplers" in name:
        kernel = torch.tensor([1.0, 2.0, 1.0]).outer(torch.tensor([1.0, 2.0, 1.0])) / 16
    else:
        kernel[side // 2, side // 2] = 1
    layer.weight[:SIGNED] = 0
    if layer.in_channels >= SIGNED:
        mixing = torch.eye(SIGNED)
    else:
        colours = torch.eye(RGB) if layer.in_channels == RGB else torch.linalg.inv(LUMA_CHROMA)
        mixing = torch.cat([colours, -colours])
    inputs = mixing.shape[1]
    layer.weight[:SIGNED, :inputs] = mixing[..., None, None] * kernel
    last = SIGNED + constants_of(layer.out_channels)
    layer.weight[SIGNED:last] = 0
    layer.bias[SIGNED:last:2] = CONSTANT
    layer.bias[SIGNED + 1 : last : 2] = -CONSTANT
