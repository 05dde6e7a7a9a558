"""Latents as the denoiser returns them, beside the pictures that they should be.

The corpus is noised and drawn on from there, as the studio draws. So little noise that a picture stays the same, and
so much that only its caption is left, are both among them; how much was left of the truth is kept with each.
"""

# torch's modules and the libraries' configs are typed more narrowly than they are
# pyright: reportCallIssue=false

import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from engine.families.starter import base
from engine.starter.denoiser import new_scheduler, noised
from engine.starter.latents import LatentCorpus
from engine.starter.precision import autocast
from engine.starter.text import embed, empty_ids

PICTURES, BATCH = 1000, 20
STEPS = 10  # of a whole picture
LEAST_STEPS, MOST_STEPS = 3, 9  # of these, from t = 299 or t = 899 on


@dataclass(frozen=True, kw_only=True)
class Redrawn:
    """latents: float16 (n, 16, 32, 32); rows: int64 (n,), of the `LatentCorpus`; left: (n,), sqrt(alpha_bar) where
    drawing began, 0 to 1."""

    latents: Tensor
    rows: Tensor
    left: Tensor

    def __len__(self) -> int:
        return len(self.rows)


@torch.no_grad()
def redraw(
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    data: LatentCorpus,
    count: int,
    generator: torch.Generator,
) -> Redrawn:
    """`count` rows of the corpus, in batches that begin with the same noise."""
    starter = base()
    latents, drawn, left = [], [], []
    for first in range(0, count, BATCH):
        rows = data.rows(min(BATCH, count - first), generator)
        x, ids = data.of(rows, 32, generator)
        scheduler = new_scheduler()
        scheduler.set_timesteps(STEPS)
        steps = int(torch.randint(LEAST_STEPS, MOST_STEPS + 1, (), generator=generator))
        alpha_bar = scheduler.alphas_cumprod[scheduler.timesteps[-steps]].expand(len(rows))
        left.append(alpha_bar.sqrt())
        x, _, _ = noised(x, torch.randn(x.shape, generator=generator), alpha_bar)
        with autocast():
            words = embed(text_encoder, torch.cat([empty_ids(tokenizer).expand_as(ids), ids]))
            for t in scheduler.timesteps[-steps:].tolist():
                without, asked = unet(torch.cat([x, x]), t, words).sample.float().chunk(2)
                guided = without + starter.default_guidance * (asked - without)
                v = rescale_noise_cfg(guided, asked, starter.guidance_rescale)
                x = scheduler.step(v, t, x).prev_sample
        latents.append(x.half())
        drawn.append(rows)
        print(f"redrawn {first + len(rows)} of {count}", flush=True)
    return Redrawn(latents=torch.cat(latents), rows=torch.cat(drawn), left=torch.cat(left))


def load_or_redraw(
    file: Path, unet: UNet2DConditionModel, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, data: LatentCorpus
) -> Redrawn:
    """What `file` holds, if it is there; else `PICTURES` anew."""
    if file.exists():
        return Redrawn(**torch.load(file, weights_only=True))
    made = redraw(unet, text_encoder, tokenizer, data, PICTURES, torch.Generator().manual_seed(0))
    torch.save(asdict(made), file.with_suffix(".part"))
    os.replace(file.with_suffix(".part"), file)
    return made
