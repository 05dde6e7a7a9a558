"""Texturing: the U-Net's finest levels, where little noise is left.

A pastel's strokes are a sixtieth of the range and two latents wide: an error that the rest of the world's outweighs, so
that they were smoothed away from renders noised to t = 149 already. They are local, so the levels that see 32x32 and
16x16 cells learn them by themselves; everything below is frozen, and with it what is obeyed and where things are. The
other looks come along, lest they get strokes too.
"""

# torch's modules and the libraries' configs are typed more narrowly than they are
# pyright: reportCallIssue=false

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from engine.starter.denoiser import EMPTY_CAPTION_SHARE, new_scheduler, noised, spread_timesteps, weight_of_cells
from engine.starter.latents import LatentCorpus, with_share
from engine.starter.looks import LOOKS
from engine.starter.perception import Cells
from engine.starter.precision import autocast
from engine.starter.text import embed, empty_ids
from engine.starter.training import Schedule, train

FINEST = ("conv_in.", "down_blocks.0.", "down_blocks.1.", "up_blocks.2.", "up_blocks.3.", "conv_norm_out.", "conv_out.")
BATCH = 24
PEOPLE_SHARE, PASTELS_SHARE = 0.35, 0.35
LOW_NOISE_SKEW = 0.6  # t = 1000 u^(1 / 0.6): low noise comes more often


def train_textures(
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    data: LatentCorpus,
    cells: Cells,
    folder: Path,
    *,
    size: int,
    minutes: float,
) -> nn.Module:
    """Train the finest levels of `unet` on latents of side `size` for `minutes`; returns the averaged U-Net."""
    alpha_bar = new_scheduler().alphas_cumprod
    empty = empty_ids(tokenizer)
    pastels = (cells.look == LOOKS.index("pastel")).nonzero().flatten()
    text_encoder.requires_grad_(False)
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(name.startswith(FINEST))

    def loss_of(generator: torch.Generator) -> Tensor:
        rows = data.rows(BATCH, generator, [(data.people, PEOPLE_SHARE)])
        rows = with_share(rows, pastels, PASTELS_SHARE, generator)
        latents, ids = data.of(rows, size, generator)
        ids[torch.rand(BATCH, generator=generator) < EMPTY_CAPTION_SHARE] = empty
        noise = torch.randn(latents.shape, generator=generator)
        timesteps = spread_timesteps(BATCH, generator, LOW_NOISE_SKEW)
        x_t, v, weight = noised(latents, noise, alpha_bar[timesteps])
        names, _ = cells.of(rows)
        with autocast():
            words = embed(text_encoder, ids)
            predicted = unet(x_t.to(memory_format=torch.channels_last), timesteps, words).sample
        squared = (weight_of_cells(names) * (predicted.float() - v).square()).mean(dim=(1, 2, 3)) * weight
        return squared.mean()

    schedule = Schedule(minutes=minutes, learning_rate=5e-4, warmup_steps=20, decay=0.6, ema=0.99, muon=True)
    modules = {"unet": unet.to(memory_format=torch.channels_last)}
    return train(f"textured-{size}", folder, modules, loss_of, schedule)["unet"]
