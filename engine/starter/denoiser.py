"""The denoiser: a small U-Net and its text encoder, trained together on the latents of the corpus.

v-prediction (Salimans & Ho 2022) with zero terminal SNR and trailing timesteps (Lin et al. 2024). The loss is weighted
as min(SNR + 1, 10) on x0: like min-SNR (Hang et al. 2023) for the fine steps, but without its vanishing weight at high
noise, where colour and layout are decided. Cells of things weigh more than the ground and sky around them, which
are most of a picture and learned soonest. Beside it, the x0 that a step implies must look right to the reader
(`perception.py`), and a head inside the U-Net names what lies where. First on 16x16 latents, then on 32x32.
"""

# torch's modules and the libraries' configs are typed more narrowly than they are
# pyright: reportCallIssue=false

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from engine.starter.latents import LatentCorpus
from engine.starter.linear_code import LATENT_CHANNELS
from engine.starter.perception import CELL_NAMES, FIRST_THING, Cells, InnerHead, Reader, naming_loss, perception_loss
from engine.starter.precision import autocast
from engine.starter.text import WIDTH, embed, empty_ids
from engine.starter.training import Look, Schedule, train
from engine.starter.world import PERSON

EMPTY_CAPTION_SHARE = 0.1
PAIRS_SHARE = 0.25  # of the rows, from scenes with two things: which word is whose is learned from them
BATCH = {16: 128, 32: 64}
HIGH_NOISE_SKEW = 1.5
THING_WEIGHT = 3.0  # of a cell that shows a thing, against 1 elsewhere
INNER_WEIGHT = 0.1
_WEIGHT_CAP = 10.0


def new_unet() -> UNet2DConditionModel:
    """Three levels; attention on the two lower ones."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        layers_per_block=1,
        block_out_channels=(96, 192, 256),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def new_scheduler() -> DDIMScheduler:
    """Stable Diffusion's betas, rescaled so that the last step is pure noise."""
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=0,
    )


def spread_timesteps(count: int, generator: torch.Generator, skew: float = 1.0) -> Tensor:
    """`count` timesteps of 0..999, one from each of `count` equally likely intervals, shuffled: less noise in the loss.

    With `skew` above 1 high noise, where prompts and layout are obeyed, comes more often: t = 1000 u^(1 / skew).
    """
    places = (torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)) / count
    return (places ** (1 / skew) * 1000).long()


def noised(latents: Tensor, noise: Tensor, alpha_bar: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x_t, v and the loss weight of each sample; `alpha_bar` is (n,).

    x_t = sqrt(a) x + sqrt(1 - a) e and v = sqrt(a) e - sqrt(1 - a) x. The squared error of v is that of x0 divided by
    1 - a = 1 / (SNR + 1); the weight caps SNR + 1.
    """
    a = alpha_bar[:, None, None, None]
    x_t = a.sqrt() * latents + (1 - a).sqrt() * noise
    v = a.sqrt() * noise - (1 - a).sqrt() * latents
    inverse = 1 - alpha_bar  # 1 / (SNR + 1)
    weight = (inverse * _WEIGHT_CAP).clamp(max=1.0)
    return x_t, v, weight


def weight_of_cells(names: Tensor, of_people: float = THING_WEIGHT) -> Tensor:
    """`names` (n, side, side) of `Cells` -> weights (n, 1, side, side) whose mean over the batch is 1."""
    weight = torch.where(names >= FIRST_THING, THING_WEIGHT, 1.0)[:, None]
    weight[names[:, None] == CELL_NAMES.index(PERSON)] = of_people
    return weight / weight.mean()


def weighted_error(predicted: Tensor, v: Tensor, of_cells: Tensor, weight: Tensor) -> Tensor:
    """The mean squared error of v; cells weigh `of_cells` (n, 1, side, side) and samples `weight` (n,)."""
    squared = of_cells * (predicted.float() - v).square()
    return (squared.mean(dim=(1, 2, 3)) * weight).mean()


def implied_x0(x_t: Tensor, v: Tensor, alpha_bar: Tensor) -> Tensor:
    """x0 = sqrt(a) x_t - sqrt(1 - a) v; `alpha_bar` is (n,)."""
    a = alpha_bar[:, None, None, None]
    return a.sqrt() * x_t - (1 - a).sqrt() * v


class Objective:
    """What a denoiser is trained on: the error of v, what the reader sees in the x0 that it implies, and what a head
    inside the U-Net names.

    `reader` and `cells` are of the latents' size; what the reader says is weighted by sqrt(alpha_bar).
    """

    def __init__(self, unet: UNet2DConditionModel, reader: Reader, cells: Cells) -> None:
        self.unet, self.reader, self.cells = unet, reader, cells
        self.alpha_bar = new_scheduler().alphas_cumprod
        # Below the top level of 256 px, the top level at 128 px: 16x16 cells at either size.
        inner_level: Any = unet.up_blocks[1]
        self.inner_head = InnerHead(inner_level.resnets[-1].out_channels)
        self._inner: dict[str, Tensor] = {}

        def keep(module: nn.Module, given: tuple[Any, ...], features: Tensor) -> None:
            self._inner["features"] = features

        inner_level.register_forward_hook(keep)

    def loss(
        self,
        rows: Tensor,
        latents: Tensor,
        words: Tensor,
        timesteps: Tensor,
        generator: torch.Generator,
        *,
        person_weight: float = THING_WEIGHT,
        **conditions: Any,
    ) -> Tensor:
        """Of the `rows` (n,) of the corpus, noised to `timesteps` (n,). `conditions` are the U-Net's further inputs."""
        noise = torch.randn(latents.shape, generator=generator)
        x_t, v, weight = noised(latents, noise, self.alpha_bar[timesteps])
        names, colours = self.cells.of(rows)
        count = len(rows)
        with autocast():
            predicted = self.unet(x_t.to(memory_format=torch.channels_last), timesteps, words, **conditions).sample
            # The purer the noise, the less of x0 is known: only the clearer half is looked at.
            clear = timesteps.argsort()[: count // 2]
            a = self.alpha_bar[timesteps[clear]]
            implied = implied_x0(x_t[clear], predicted[clear].float(), a)
            look = self.cells.look[rows[clear]]
            perceived = perception_loss(self.reader, implied, latents[clear], names[clear], colours[clear], look)
            seen = self.inner_head(self._inner["features"])
        every = names.shape[-1] // seen[0].shape[-1]
        known = naming_loss(*seen, names[:, ::every, ::every], colours[:, ::every, ::every])
        of_cells = weight_of_cells(names, person_weight)
        error = weighted_error(predicted, v, of_cells, weight)
        return error + (a.sqrt() * perceived).sum() / count + INNER_WEIGHT * known.mean()


def train_denoiser(
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    data: LatentCorpus,
    reader: Reader,
    cells: Cells,
    folder: Path,
    *,
    size: int,
    minutes: float,
    look: Look | None = None,
) -> dict[str, nn.Module]:
    """Train on latents of side `size` (16 or 32) for `minutes`; returns the averaged U-Net and text encoder.

    `reader` and `cells` are of that size.
    """
    empty = empty_ids(tokenizer)
    count = BATCH[size]
    objective = Objective(unet, reader, cells)

    def loss_of(generator: torch.Generator) -> Tensor:
        rows = data.rows(count, generator, [(data.pairs, PAIRS_SHARE)])
        latents, ids = data.of(rows, size, generator)
        ids[torch.rand(count, generator=generator) < EMPTY_CAPTION_SHARE] = empty
        timesteps = spread_timesteps(count, generator, HIGH_NOISE_SKEW)
        with autocast():
            words = embed(text_encoder, ids)
        return objective.loss(rows, latents, words, timesteps, generator)

    unet.to(memory_format=torch.channels_last)
    modules: Mapping[str, nn.Module] = {
        "unet": unet,
        "text_encoder": text_encoder,
        "inner_head": objective.inner_head,
    }
    schedule = Schedule(minutes=minutes, learning_rate=1e-3, warmup_steps=100, ema=0.998, muon=True)
    return train(f"denoiser-{size}", folder, modules, loss_of, schedule, look=look)
