"""Refining: the U-Net and the IP-Adapter together.

Shapes are lost in the middle of the noise, people above all, and calm ground gets its blotches where little noise is
left, so all timesteps come as often. Half of a batch is the corpus as before, without the adapter; the rest is drawn in
the style of a reference with it. So the adapter follows the U-Net, and the U-Net learns to draw in styles that no word
names. The text encoder stays as it is, and so does the image encoder.
"""

# torch's modules and the libraries' configs are typed more narrowly than they are
# pyright: reportCallIssue=false, reportArgumentType=false

from copy import deepcopy
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from engine.starter.denoiser import EMPTY_CAPTION_SHARE, PAIRS_SHARE, Objective, spread_timesteps
from engine.starter.latents import LatentCorpus
from engine.starter.perception import Cells, Reader
from engine.starter.precision import autocast
from engine.starter.style import AdapterWeights, StyledScenes, no_reference, styled_loss
from engine.starter.text import embed, empty_ids, token_ids
from engine.starter.training import Schedule, train

BATCH = {16: 24, 32: 12}
STYLED_BATCH = {16: 24, 32: 12}
PEOPLE_SHARE = 0.5
PERSON_WEIGHT = 8.0  # of a cell that shows a person: heads are a few cells


def train_refined(
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    data: LatentCorpus,
    reader: Reader,
    cells: Cells,
    scenes: StyledScenes,
    adapter: Path,
    folder: Path,
    *,
    minutes: float,
) -> tuple[nn.Module, AdapterWeights]:
    """Train for `minutes` from `unet` and the weights exported to `adapter`; returns both, averaged.

    `reader`, `cells` and `scenes` are of one size of latents.
    """
    plain = deepcopy(unet)
    empty, count = empty_ids(tokenizer), BATCH[scenes.size]
    weights = AdapterWeights.attached(unet.to(memory_format=torch.channels_last), adapter)
    text_encoder.requires_grad_(False)
    unet.requires_grad_(True)
    objective = Objective(unet, reader, cells)

    def loss_of(generator: torch.Generator) -> Tensor:
        rows = data.rows(count, generator, [(data.pairs, PAIRS_SHARE), (data.people, PEOPLE_SHARE)])
        latents, ids = data.of(rows, scenes.size, generator)
        ids[torch.rand(count, generator=generator) < EMPTY_CAPTION_SHARE] = empty
        styled = scenes.draw(STYLED_BATCH[scenes.size], generator)
        with autocast():
            words, of_styled = (embed(text_encoder, i) for i in (ids, token_ids(tokenizer, styled.captions)))
        weights.weigh(0.0)
        as_before = objective.loss(
            rows,
            latents,
            words,
            spread_timesteps(count, generator),
            generator,
            person_weight=PERSON_WEIGHT,
            added_cond_kwargs=no_reference(count),
        )
        weights.weigh(1.0)
        in_style = styled_loss(unet, of_styled, styled, objective.alpha_bar, generator)
        share = len(styled.captions) / (count + len(styled.captions))
        return torch.lerp(as_before, in_style, share)

    schedule = Schedule(minutes=minutes, learning_rate=5e-4, warmup_steps=20, decay=0.6, ema=0.99, muon=True)
    modules = {"unet": unet, "inner_head": objective.inner_head}
    averaged = train(f"refined-{scenes.size}", folder, modules, loss_of, schedule)["unet"]
    return AdapterWeights.detached(averaged, plain)
