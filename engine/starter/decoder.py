"""The decoder of the picture code: latents back to pixels, trained on crops of the corpus.

L1 on pixels and on their differences (edges), with a little noise on the latents, because a denoiser's latents are
never exact. Knows nothing of the denoiser.
"""

# torch's modules and the libraries' configs are typed more narrowly than they are
# pyright: reportCallIssue=false

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from engine.starter.corpus import SIZE_PX, Corpus
from engine.starter.linear_code import Code
from engine.starter.pixels import to_tensor
from engine.starter.precision import autocast
from engine.starter.training import Schedule, train

CROP_PX = 96
BATCH = 12
LATENT_NOISE = 0.1
HALF_SIZE_SHARE = 0.7  # of the batches, from pictures at 128 px


def edges(x: Tensor) -> tuple[Tensor, Tensor]:
    """Horizontal and vertical differences of (n, c, h, w)."""
    return x[..., :, 1:] - x[..., :, :-1], x[..., 1:, :] - x[..., :-1, :]


def reconstruction_loss(decoded: Tensor, target: Tensor) -> Tensor:
    """Of each picture, (n,): mean absolute error of pixels and of edges, with a squared term that PSNR answers to."""

    def over_pixels(error: Tensor) -> Tensor:
        return error.mean(dim=(1, 2, 3))

    loss = over_pixels((decoded - target).abs() + 2 * (decoded - target).square())
    for ours, theirs in zip(edges(decoded), edges(target), strict=True):
        loss = loss + over_pixels((ours - theirs).abs())
    return loss


def train_decoder(autoencoder: AutoencoderKL, corpus: Corpus, code: Code, folder: Path, minutes: float) -> nn.Module:
    """Train for `minutes`; returns the averaged decoder."""

    def loss_of(generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(corpus), (BATCH,), generator=generator).tolist()
        scale = 2 if torch.rand((), generator=generator) < HALF_SIZE_SHARE else 1
        side = scale * CROP_PX
        corners = torch.randint((SIZE_PX - side) // 8 + 1, (BATCH, 2), generator=generator).mul(8).tolist()
        crops = [corpus[row][y : y + side, x : x + side] for row, (y, x) in zip(rows, corners, strict=True)]
        target = nn.functional.avg_pool2d(to_tensor(np.stack(crops)), scale)
        if torch.rand((), generator=generator) < 0.5:
            target = target.flip(-1)
        latents = code.encode(target)
        sigma = LATENT_NOISE * torch.rand(BATCH, 1, 1, 1, generator=generator)
        latents = latents + sigma * torch.randn(latents.shape, generator=generator)
        with autocast():
            decoded = autoencoder.decoder(latents.to(memory_format=torch.channels_last))
        return reconstruction_loss(decoded.float(), target).mean()

    autoencoder.decoder.to(memory_format=torch.channels_last)
    schedule = Schedule(minutes=minutes, learning_rate=2e-3, warmup_steps=100, weight_decay=0.0, ema=0.998)
    return train("decoder", folder, {"decoder": autoencoder.decoder}, loss_of, schedule)["decoder"]
