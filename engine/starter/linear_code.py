"""The picture code: the best linear 8x8-block code of the corpus, written into an ordinary `AutoencoderKL` encoder.

A learned encoder costs hours on two cores and, whenever it improves, everything trained on its latents must be trained
again. A linear code is known in closed form (principal components of 8x8 blocks), so latents exist within minutes and
never change; only the decoder is learned, at leisure. This module knows nothing of training.

Two facts make an `AutoencoderKL` encoder compute a linear map exactly (up to 1e-4):
- a residual block whose last convolution is zero is its shortcut, and a stride-2 convolution can be space-to-depth;
- `silu(x) - silu(-x) = x`, and a group norm over a group that holds every x with its -x and the constants +-K only
  divides by K: its mean is zero and its variance is the constants'.
"""

# torch's modules and the libraries' configs are typed more narrowly than they are
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportIndexIssue=false, reportOptionalSubscript=false, reportAttributeAccessIssue=false

from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

BLOCK_PX = 8
LATENT_CHANNELS = 16
WIDTHS = (16, 32, 64, 128)
GROUPS = 4
WHITENING = 0.5  # 0 keeps the components' own variance, 1 makes them all equal
_CONSTANT = 256.0
_LOG_VARIANCE = -30.0  # the posterior is a point


def components(blocks: np.ndarray, count: int) -> np.ndarray:
    """The first `count` principal components, (count, features), of `blocks` (n, features) about the origin."""
    moments = blocks.T.astype(np.float64) @ blocks / len(blocks)
    values, vectors = np.linalg.eigh(moments)
    return vectors[:, np.argsort(values)[::-1][:count]].T


def blocks_of(images: np.ndarray, side: int) -> np.ndarray:
    """uint8 (n, H, W, 3) -> float32 (blocks, 3 * side * side) in [-1, 1], features ordered (channel, y, x)."""
    n, height, width, _ = images.shape
    x = images.astype(np.float32) / 127.5 - 1
    x = x.reshape(n, height // side, side, width // side, side, 3).transpose(0, 1, 3, 5, 2, 4)
    return x.reshape(-1, 3 * side * side)


@dataclass(frozen=True, kw_only=True)
class Code:
    """latents = conv2d(pixels in [-1, 1], kernel, stride 8) + offset; kernel (16, 3, 8, 8), offset (16,), float32."""

    kernel: Tensor
    offset: Tensor

    def encode(self, images: Tensor) -> Tensor:
        """float (n, 3, H, W) in [-1, 1] -> latents (n, 16, H / 8, W / 8); what the written encoder computes."""
        return nn.functional.conv2d(images, self.kernel, self.offset, stride=BLOCK_PX)

    @staticmethod
    def fit(images: np.ndarray) -> "Code":
        """Principal components of the blocks of `images` (uint8, n, H, W, 3), partly whitened.

        Component i is divided by std_i ** WHITENING, then all by one number that gives the latents unit variance on
        average; the offset centres them.
        """
        blocks = blocks_of(images, BLOCK_PX)
        basis = components(blocks, LATENT_CHANNELS)
        std = (blocks @ basis.T).std(axis=0)
        kernel = basis / std[:, None] ** WHITENING
        kernel /= np.sqrt(np.mean((std ** (1 - WHITENING)) ** 2))
        offset = -(blocks @ kernel.T).mean(axis=0)
        shape = (LATENT_CHANNELS, 3, BLOCK_PX, BLOCK_PX)
        return Code(kernel=torch.from_numpy(kernel.reshape(shape)).float(), offset=torch.from_numpy(offset).float())


def new_autoencoder() -> AutoencoderKL:
    """An untrained autoencoder of the starter's shape: f8, 16 channels, narrow at full size."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=WIDTHS,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=GROUPS,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        sample_size=256,
        scaling_factor=1.0,
        force_upcast=False,
    )


@torch.no_grad()
def write_encoder(autoencoder: AutoencoderKL, code: Code, images: np.ndarray) -> None:
    """Set the encoder's weights so that its mean is `code.encode(images)`.

    Pixels are gathered in three space-to-depth steps: 2x2 blocks exactly (12 values), 4x4 blocks as their first 31
    principal components on `images` (uint8, n, H, W, 3), and 8x8 blocks as the latents. One more channel carries the
    constant.
    """
    encoder = autoencoder.encoder
    for parameter in encoder.parameters():
        parameter.zero_()
    for block in (*encoder.down_blocks, encoder.mid_block):
        for resnet in block.resnets:
            if resnet.conv_shortcut is not None:
                for channel in range(resnet.conv_shortcut.in_channels):
                    resnet.conv_shortcut.weight[channel, channel] = 1

    encoder.conv_in.weight[range(3), range(3), 1, 1] = 1
    encoder.conv_in.bias[-1] = _CONSTANT
    constant = WIDTHS[0] - 1

    pairs = torch.eye(12).reshape(12, 3, 2, 2)
    kept = WIDTHS[1] - 1
    quads = torch.from_numpy(components(blocks_of(images, 4), kept)).float().reshape(kept, 3, 4, 4)
    gathered = [pairs, quads, code.kernel]
    below, channels = torch.eye(3).reshape(3, 3, 1, 1), 3
    for block, wanted in zip(encoder.down_blocks[:3], gathered, strict=True):
        convolution = block.downsamplers[0].conv
        # Each wanted value as a combination of the four neighbours' values one level below.
        step = _as_step(wanted, below)
        convolution.weight[: len(wanted), :channels, :2, :2] = step
        constant_out = convolution.out_channels - 1
        convolution.weight[constant_out, constant, 0, 0] = 1
        constant = constant_out
        below, channels = wanted, len(wanted)
    _split_into_pairs(encoder.down_blocks[3].resnets[0].conv_shortcut.weight, constant)
    _merge_pairs(encoder)
    encoder.conv_out.bias[:LATENT_CHANNELS] = code.offset


def _as_step(wanted: Tensor, below: Tensor) -> Tensor:
    """Weights (out, in, 2, 2) with which a 2x2 convolution of `below`'s values gives `wanted`'s, by least squares.

    `wanted` (out, 3, 2s, 2s) and `below` (in, 3, s, s) are kernels over pixels.
    """
    count, _, side, _ = below.shape
    basis = torch.zeros(count, 2, 2, 3, 2 * side, 2 * side)
    for y in range(2):
        for x in range(2):
            basis[:, y, x, :, y * side : (y + 1) * side, x * side : (x + 1) * side] = below
    basis = basis.reshape(4 * count, -1).double()
    weights = torch.linalg.lstsq(basis.T, wanted.reshape(len(wanted), -1).double().T).solution
    return weights.T.reshape(len(wanted), count, 2, 2).float()


def _split_into_pairs(shortcut: Tensor, constant: int) -> None:
    """Lay out the last level's groups as (x, -x) pairs with the constants +K and -K."""
    shortcut.zero_()
    width, per_group = WIDTHS[-1] // GROUPS, LATENT_CHANNELS // GROUPS
    for latent in range(LATENT_CHANNELS):
        group, place = divmod(latent, per_group)
        shortcut[group * width + 2 * place, latent] = 1
        shortcut[group * width + 2 * place + 1, latent] = -1
    for group in range(GROUPS):
        shortcut[group * width + width - 2, constant] = 1
        shortcut[group * width + width - 1, constant] = -1


def _merge_pairs(encoder: nn.Module) -> None:
    """Undo the norm's division by the constants' deviation, and join the pairs after the SiLU."""
    width, per_group = WIDTHS[-1] // GROUPS, LATENT_CHANNELS // GROUPS
    encoder.conv_norm_out.weight.fill_(_CONSTANT * (2 / width) ** 0.5)
    for latent in range(LATENT_CHANNELS):
        group, place = divmod(latent, per_group)
        encoder.conv_out.weight[latent, group * width + 2 * place, 1, 1] = 1
        encoder.conv_out.weight[latent, group * width + 2 * place + 1, 1, 1] = -1
    encoder.conv_out.bias[LATENT_CHANNELS:] = _LOG_VARIANCE
