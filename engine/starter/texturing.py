"""Texturing: the U-Net's finest levels, and the IP-Adapter.

A pastel's strokes are a sixtieth of the range and two latents wide: an error that the rest of the world's outweighs, so
that they were smoothed away from renders noised to t = 149 already. They are local, as a hand's outline is, so the
levels that see 32x32 and 16x16 cells learn them by themselves; everything below is frozen, and with it what is obeyed
and where things are. A third of a batch is the corpus where little noise is left, pastels above all; a third is laid
out by a map, people above all, as the ControlNet has it, which is frozen; a third is drawn in the style of a reference.
"""

# torch's modules and the libraries' configs are typed more narrowly than they are
# pyright: reportCallIssue=false, reportArgumentType=false

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from engine.settings import ControlName
from engine.starter.control import MappedScenes, mapped_v
from engine.starter.corpus import LOOKS_PER_SCENE
from engine.starter.denoiser import (
    EMPTY_CAPTION_SHARE,
    new_scheduler,
    noised,
    spread_timesteps,
    weight_of_cells,
    weighted_error,
)
from engine.starter.latents import LatentCorpus, with_share
from engine.starter.looks import LOOKS
from engine.starter.perception import Cells
from engine.starter.precision import autocast
from engine.starter.style import AdapterWeights, StyledScenes, no_reference, styled_loss
from engine.starter.text import embed, empty_ids, token_ids
from engine.starter.training import Schedule, train

FINEST = ("conv_in.", "down_blocks.0.", "down_blocks.1.", "up_blocks.2.", "up_blocks.3.", "conv_norm_out.", "conv_out.")
BATCH, MAPS, STYLED_BATCH = 12, 5, 12  # pictures of the corpus; maps, of three pictures each; pictures in a style
PEOPLE_SHARE, PASTELS_SHARE = 0.25, 0.30
LOW_NOISE_SKEW = 0.6  # t = 1000 u^(1 / 0.6): low noise comes more often
MAP_SHARES: Mapping[ControlName, float] = {"openpose": 0.7, "canny": 0.3}
# Of a cell that shows a person or borders on one, and of one around a head or a hand, where a map lays the picture out.
PERSON_WEIGHT, HEAD_WEIGHT = 8.0, 40.0


def train_textures(
    unet: UNet2DConditionModel,
    controlnet: ControlNetModel,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    data: LatentCorpus,
    cells: Cells,
    styled_scenes: StyledScenes,
    adapter: Path,
    folder: Path,
    *,
    minutes: float,
) -> tuple[UNet2DConditionModel, AdapterWeights]:
    """Train for `minutes` from `unet` and the weights exported to `adapter`; returns both, averaged.

    `cells` and `styled_scenes` are of one size of latents.
    """
    plain, size = deepcopy(unet), styled_scenes.size
    alpha_bar, empty = new_scheduler().alphas_cumprod, empty_ids(tokenizer)
    pastels = (cells.look == LOOKS.index("pastel")).nonzero().flatten()
    mapped_scenes = MappedScenes(styled_scenes.corpus, data, cells, empty, size=size)
    for frozen in (text_encoder, controlnet, unet):
        frozen.requires_grad_(False).to(memory_format=torch.channels_last)
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(name.startswith(FINEST))
    weights = AdapterWeights.attached(unet, adapter)
    weights.requires_grad_(True)

    def of_the_corpus(generator: torch.Generator) -> Tensor:
        rows = data.rows(BATCH, generator, [(data.people, PEOPLE_SHARE)])
        rows = with_share(rows, pastels, PASTELS_SHARE, generator)
        latents, ids = data.of(rows, size, generator)
        ids[torch.rand(BATCH, generator=generator) < EMPTY_CAPTION_SHARE] = empty
        noise = torch.randn(latents.shape, generator=generator)
        timesteps = spread_timesteps(BATCH, generator, LOW_NOISE_SKEW)
        x_t, v, weight = noised(latents, noise, alpha_bar[timesteps])
        names, _ = cells.of(rows)
        with autocast():
            x_t, words = x_t.to(memory_format=torch.channels_last), embed(text_encoder, ids)
            predicted = unet(x_t, timesteps, words, added_cond_kwargs=no_reference(BATCH)).sample
        return weighted_error(predicted, v, weight_of_cells(names), weight)

    def laid_out(generator: torch.Generator) -> Tensor:
        mapped = mapped_scenes.draw(MAPS, generator, MAP_SHARES)
        noise = torch.randn(mapped.latents.shape, generator=generator)
        timesteps = spread_timesteps(len(noise), generator)
        x_t, v, weight = noised(mapped.latents, noise, alpha_bar[timesteps])
        with autocast():
            words = embed(text_encoder, mapped.ids)
        conditions = no_reference(MAPS * LOOKS_PER_SCENE)
        predicted = mapped_v(controlnet, unet, x_t, timesteps, words, mapped.condition, added_cond_kwargs=conditions)
        of_cells = nn.functional.max_pool2d(weight_of_cells(mapped.names, PERSON_WEIGHT), 3, stride=1, padding=1)
        of_cells = torch.where(mapped.heads[:, None], HEAD_WEIGHT / PERSON_WEIGHT * of_cells, of_cells)
        return weighted_error(predicted, v, of_cells / of_cells.mean(), weight)

    def in_style(generator: torch.Generator) -> Tensor:
        styled = styled_scenes.draw(STYLED_BATCH, generator)
        with autocast():
            words = embed(text_encoder, token_ids(tokenizer, styled.captions))
        return styled_loss(unet, words, styled, alpha_bar, generator)

    def loss_of(generator: torch.Generator) -> Tensor:
        weights.weigh(0.0)
        without_reference = of_the_corpus(generator) + laid_out(generator)
        weights.weigh(1.0)
        return (without_reference + in_style(generator)) / 3

    schedule = Schedule(minutes=minutes, learning_rate=5e-4, warmup_steps=20, decay=0.6, ema=0.99, muon=True)
    averaged = train(f"textured-{size}", folder, {"unet": unet}, loss_of, schedule)["unet"]
    return AdapterWeights.detached(averaged, plain)
