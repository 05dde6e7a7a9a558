"""ControlNets of the starter: edges, a skeleton, depth, normals or classes decide where things go; the base is frozen.

The map is taken from the scene's photo, whatever look the picture is in, because that is how people use it: a photo
gives the layout, the prompt or a reference gives the look (Zhang et al. 2023).
"""

# torch's modules and the libraries' configs are typed more narrowly than they are
# pyright: reportCallIssue=false

from collections.abc import Callable
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from engine.controls.ade20k import PALETTE
from engine.controls.openpose import draw
from engine.starter.ade20k import classes_of
from engine.starter.corpus import LOOKS_PER_SCENE, Corpus, scene
from engine.starter.denoiser import HIGH_NOISE_SKEW, implied_x0, new_scheduler, noised, spread_timesteps
from engine.starter.latents import LatentCorpus
from engine.starter.perception import Cells, Reader, perception_loss
from engine.starter.render import joints_of
from engine.starter.text import embed, empty_ids
from engine.starter.training import Schedule, autocast, train
from engine.starter.world import PERSON

BATCH = {16: 48, 32: 32}
CONDITIONING_WIDTHS = (16, 32, 64, 96)
# OpenPose's joints with the person's left and right exchanged, as a mirror does.
_EXCHANGED = [0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 15, 14, 17, 16]


def new_controlnet(unet: UNet2DConditionModel) -> ControlNetModel:
    """A copy of the base's encoder with zero convolutions and three halvings from pixels to latents."""
    return ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=CONDITIONING_WIDTHS)


def canny_map(corpus: Corpus, index: int, flipped: bool, size_px: int) -> np.ndarray:
    """Canny edges of scene `index`'s photo, at thresholds drawn around 100 and 200, as people set them."""
    rng = np.random.default_rng((index, int(flipped), 11))
    photo = corpus[index * LOOKS_PER_SCENE]
    if size_px != photo.shape[0]:
        photo = cv2.resize(photo, (size_px, size_px), interpolation=cv2.INTER_AREA)
    low = rng.uniform(60, 130)
    edges = cv2.Canny(photo, low, low * rng.uniform(1.6, 2.4))
    return np.repeat((edges[:, ::-1] if flipped else edges)[:, :, None], 3, axis=2)


def openpose_map(corpus: Corpus, index: int, flipped: bool, size_px: int) -> np.ndarray:
    """The exact joints of scene `index`'s person, drawn as for any photo; black without a person."""
    joints = _joints(index)
    if joints is None:
        return np.zeros((size_px, size_px, 3), np.uint8)
    joints = joints * np.array([size_px, size_px, 1])
    if flipped:
        joints = joints[_EXCHANGED]
        joints[:, 0] = size_px - 1 - joints[:, 0]
    return np.asarray(draw([joints], (size_px, size_px)))


def depth_map(corpus: Corpus, index: int, flipped: bool, size_px: int) -> np.ndarray:
    """The exact depth of scene `index`, near is white."""
    depth = cv2.resize(corpus.depth[index], (size_px, size_px), interpolation=cv2.INTER_LINEAR)
    return np.repeat((depth[:, ::-1] if flipped else depth)[:, :, None], 3, axis=2)


def normal_map(corpus: Corpus, index: int, flipped: bool, size_px: int) -> np.ndarray:
    """The exact normals of scene `index`: x right is red, y up is green, z towards the camera is blue."""
    normals = cv2.resize(corpus.normals[index], (size_px, size_px), interpolation=cv2.INTER_LINEAR)
    if not flipped:
        return normals
    mirror = normals[:, ::-1]
    return np.concatenate([255 - mirror[:, :, :1], mirror[:, :, 1:]], axis=2)


def segmentation_map(corpus: Corpus, index: int, flipped: bool, size_px: int) -> np.ndarray:
    """What lies where in scene `index`, in the colours of ADE20K."""
    segments = cv2.resize(corpus.segments[index], (size_px, size_px), interpolation=cv2.INTER_NEAREST)
    coloured = PALETTE[classes_of(scene(index))[segments]]
    return coloured[:, ::-1] if flipped else coloured


@cache
def _joints(index: int) -> np.ndarray | None:
    return joints_of(scene(index), 1)


def rows_with_people(corpus: Corpus) -> Tensor:
    """The latent rows (mirrored ones included) of scenes that show a person."""
    scenes = range(len(corpus) // LOOKS_PER_SCENE)
    people = [i for i in scenes if any(thing.kind == PERSON for thing in scene(i).things)]
    per_scene = 2 * LOOKS_PER_SCENE
    return torch.tensor([per_scene * i + offset for i in people for offset in range(per_scene)])


def train_controlnet(
    name: str,
    controlnet: ControlNetModel,
    map_of: Callable[[Corpus, int, bool, int], np.ndarray],
    rows: Tensor,
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    corpus: Corpus,
    data: LatentCorpus,
    reader: Reader,
    cells: Cells,
    folder: Path,
    *,
    size: int,
    minutes: float,
    learning_rate: float = 8e-4,
) -> nn.Module:
    """Train on the latent rows `rows` of side `size` for `minutes`; returns the averaged ControlNet.

    Where the map says what lies, the reader must find it in the implied x0: a reward for consistency, like that of
    ControlNet++ (Li et al. 2024), beside the denoiser's own loss.
    """
    alpha_bar = new_scheduler().alphas_cumprod
    empty = empty_ids(tokenizer)
    count = BATCH[size]
    unet.requires_grad_(False).to(memory_format=torch.channels_last)
    text_encoder.requires_grad_(False)
    controlnet.to(memory_format=torch.channels_last)

    def loss_of(generator: torch.Generator) -> Tensor:
        chosen = rows[torch.randint(len(rows), (count,), generator=generator)]
        words = torch.randint(data.tokens.shape[1], (count,), generator=generator)
        latents, ids = data.latents[size][chosen].float(), data.tokens[chosen, words].long()
        # Many captions say nothing, so that the map has to be read (Zhang et al. 2023, section 3.4).
        ids[torch.rand(count, generator=generator) < 0.4] = empty
        maps = [map_of(corpus, row // (2 * LOOKS_PER_SCENE), bool(row % 2), 8 * size) for row in chosen.tolist()]
        condition = torch.from_numpy(np.stack(maps)).permute(0, 3, 1, 2).float() / 255
        noise = torch.randn(latents.shape, generator=generator)
        timesteps = spread_timesteps(count, generator, HIGH_NOISE_SKEW)
        x_t, v, weight = noised(latents, noise, alpha_bar[timesteps])
        with autocast():
            embeds = embed(text_encoder, ids)
            x_t = x_t.to(memory_format=torch.channels_last)
            down, mid = controlnet(x_t, timesteps, embeds, condition, return_dict=False)
            predicted = unet(
                x_t, timesteps, embeds, down_block_additional_residuals=down, mid_block_additional_residual=mid
            ).sample
            implied = implied_x0(x_t, predicted.float(), alpha_bar[timesteps])
            perceived = perception_loss(reader, implied, latents, *cells.of(chosen))
        squared = (predicted.float() - v).square().mean(dim=(1, 2, 3)) * weight
        return (squared + alpha_bar[timesteps].sqrt() * perceived).mean()

    schedule = Schedule(
        minutes=minutes, learning_rate=learning_rate, warmup_steps=50, ema=0.99, weight_decay=0.0, muon=True
    )
    return train(f"controlnet-{name}", folder, {"controlnet": controlnet}, loss_of, schedule)["controlnet"]
