"""The starter's ControlNet: edges, a skeleton, depth, normals, classes or strokes decide where things go; the base is
frozen.

One network follows every kind of map, which it tells apart by how they look; what it learns of placing things from one
kind serves the others, and it is loaded once for several maps. The map is taken from the scene's photo, whatever look
the picture is in, because that is how people use it: a photo gives the layout, the prompt or a reference gives the look
(Zhang et al. 2023).
"""

# torch's modules and the libraries' configs are typed more narrowly than they are
# pyright: reportCallIssue=false

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from itertools import repeat
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from engine.controls import edges
from engine.controls.ade20k import PALETTE
from engine.controls.openpose import draw
from engine.errors import NothingDetected
from engine.settings import ControlName
from engine.starter.ade20k import classes_of
from engine.starter.corpus import LOOKS_PER_SCENE, Corpus, scene
from engine.starter.denoiser import new_scheduler, noised, spread_timesteps, weight_of_cells, weighted_error
from engine.starter.latents import LatentCorpus
from engine.starter.perception import Cells
from engine.starter.precision import autocast
from engine.starter.render import joints_of
from engine.starter.text import embed, empty_ids
from engine.starter.training import Schedule, train
from engine.starter.world import PERSON

LIKE_EDGES: tuple[ControlName, ...] = ("canny", "depth", "normal", "segmentation", "softedge", "scribble", "lineart")
MAPS = {16: 16, 32: 8}  # in a batch; each decides the layout of as many pictures as its scene has looks
EMPTY_CAPTION_SHARE = 0.4
LAYOUT_NOISE_SKEW = 2.5  # more than for the base: what little noise leaves of the layout needs no map
CONDITIONING_WIDTHS = (16, 32, 64, 96)
# OpenPose's joints with the person's left and right exchanged, as a mirror does.
_EXCHANGED = [0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 15, 14, 17, 16]

# Radii around OpenPose's ears and wrists, as shares of a picture's side.
_HEAD_AND_HANDS = {16: 0.06, 17: 0.06, 4: 0.04, 7: 0.04}


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


def soft_edge_map(corpus: Corpus, index: int, flipped: bool, size_px: int) -> np.ndarray:
    """Soft edges of scene `index`'s photo."""
    return _strokes(corpus, index, flipped, size_px, lambda photo, u: edges.soft_edges(photo, softness=0.75 + 2 * u))


def scribble_map(corpus: Corpus, index: int, flipped: bool, size_px: int) -> np.ndarray:
    """The main outlines of scene `index`'s photo, as thick strokes."""
    return _strokes(
        corpus, index, flipped, size_px, lambda photo, u: edges.scribble(photo, width=3 + 6 * u, detail=0.3 + 0.5 * u)
    )


def line_art_map(corpus: Corpus, index: int, flipped: bool, size_px: int) -> np.ndarray:
    """Scene `index`'s photo as if inked."""
    return _strokes(corpus, index, flipped, size_px, lambda photo, u: edges.line_art(photo, width=4 + 4 * u))


def _strokes(
    corpus: Corpus, index: int, flipped: bool, size_px: int, take: Callable[[Image.Image, float], Image.Image]
) -> np.ndarray:
    """What `take` sees in the photo, with an option that follows from a number in 0..1; black where it sees nothing."""
    photo = cv2.resize(corpus[index * LOOKS_PER_SCENE], (size_px, size_px), interpolation=cv2.INTER_AREA)
    try:
        taken = take(Image.fromarray(photo), np.random.default_rng((index, int(flipped), 12)).uniform())
    except NothingDetected:
        return np.zeros_like(photo)
    return np.asarray(taken)[:, ::-1] if flipped else np.asarray(taken)


@dataclass(frozen=True, kw_only=True)
class Taught:
    """A kind of map that the ControlNet learns: how it is made, and its share of the examples. With `people_only`, from
    scenes that show a person."""

    map_of: Callable[[Corpus, int, bool, int], np.ndarray]
    share: float
    people_only: bool = False


# Depth, normals and classes are followed soon; edges and skeletons, which say less of a picture, take the longest.
TAUGHT: dict[ControlName, Taught] = {
    "canny": Taught(map_of=canny_map, share=0.34),
    "openpose": Taught(map_of=openpose_map, share=0.30, people_only=True),
    "depth": Taught(map_of=depth_map, share=0.08),
    "normal": Taught(map_of=normal_map, share=0.10),
    "segmentation": Taught(map_of=segmentation_map, share=0.08),
    "softedge": Taught(map_of=soft_edge_map, share=0.04),
    "scribble": Taught(map_of=scribble_map, share=0.03),
    "lineart": Taught(map_of=line_art_map, share=0.03),
}
SHARES: Mapping[ControlName, float] = {kind: taught.share for kind, taught in TAUGHT.items()}


@cache
def _joints(index: int) -> np.ndarray | None:
    return joints_of(scene(index), 1)


@cache
def scenes_with_people(corpus: Corpus) -> list[int]:
    return [i for i in range(len(corpus) // LOOKS_PER_SCENE) if any(t.kind == PERSON for t in scene(i).things)]


@dataclass(frozen=True, kw_only=True)
class Example:
    """A kind of map, and the scene that it is taken from, mirrored or not."""

    kind: ControlName
    scene: int
    flipped: bool

    @property
    def rows(self) -> list[int]:
        """The rows of the latents that show the scene, one for each look."""
        return [2 * (self.scene * LOOKS_PER_SCENE + look) + self.flipped for look in range(LOOKS_PER_SCENE)]


def examples(
    corpus: Corpus, count: int, generator: torch.Generator, shares: Mapping[ControlName, float] = SHARES
) -> list[Example]:
    """`count` maps, of every kind by its share."""
    kinds = list(shares)
    weights = torch.tensor(list(shares.values()))
    chosen = torch.multinomial(weights, count, replacement=True, generator=generator).tolist()
    places, sides = torch.rand(2, count, generator=generator).tolist()
    everywhere = range(len(corpus) // LOOKS_PER_SCENE)

    def example(kind: ControlName, place: float, side: float) -> Example:
        scenes = scenes_with_people(corpus) if TAUGHT[kind].people_only else everywhere
        return Example(kind=kind, scene=scenes[int(place * len(scenes))], flipped=side < 0.5)

    return [example(kinds[i], place, side) for i, place, side in zip(chosen, places, sides, strict=True)]


def head_cells(index: int, flipped: bool, size: int) -> Tensor:
    """Bool (size, size): the cells around the head and the hands of scene `index`'s person; none without a person."""
    near = torch.zeros(size, size, dtype=torch.bool)
    joints = _joints(index)
    if joints is None:
        return near
    centres = (torch.arange(size) + 0.5) / size
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    for joint, radius in _HEAD_AND_HANDS.items():
        at_x, at_y, _ = joints[joint]
        near |= (x - (1 - at_x if flipped else at_x)) ** 2 + (y - at_y) ** 2 < radius**2
    return near


@contextmanager
def each_for(embedding: nn.Module, count: int) -> Iterator[None]:
    """In the body, every map serves `count` pictures one after another: a ControlNet's way from a map's pixels to
    latents takes half of a training step, and is the same whatever the noise and the look."""
    hook = embedding.register_forward_hook(lambda _module, _maps, embedded: embedded.repeat_interleave(count, dim=0))
    try:
        yield
    finally:
        hook.remove()


def train_embedding(
    controlnet: ControlNetModel, corpus: Corpus, folder: Path, *, size: int, minutes: float, learning_rate: float = 1e-3
) -> None:
    """Let the other maps of a scene be embedded as its edges are, in place, for `minutes`.

    What a ControlNet for edges does with outlines then serves the other maps from the start. This needs no U-Net, so
    that a step takes less than a third of the time.
    """
    embedding = controlnet.controlnet_cond_embedding.to(memory_format=torch.channels_last)
    edges_embedded = deepcopy(embedding).requires_grad_(False)

    def loss_of(generator: torch.Generator) -> Tensor:
        scenes = torch.randint(len(corpus) // LOOKS_PER_SCENE, (MAPS[size],), generator=generator).tolist()
        kinds = torch.randint(len(LIKE_EDGES), (MAPS[size],), generator=generator).tolist()
        flipped = torch.rand(MAPS[size], generator=generator) < 0.5

        def maps(names: Iterable[ControlName]) -> Tensor:
            asked = zip(names, scenes, flipped.tolist(), strict=True)
            return _condition([TAUGHT[name].map_of(corpus, index, side, 8 * size) for name, index, side in asked])

        with torch.no_grad(), autocast():
            aim = edges_embedded(maps(repeat("canny", MAPS[size]))).float()
        with autocast():
            embedded = embedding(maps(LIKE_EDGES[kind] for kind in kinds)).float()
        return (embedded - aim).square().mean() / aim.square().mean()

    schedule = Schedule(minutes=minutes, learning_rate=learning_rate, warmup_steps=20, ema=0.98, weight_decay=0.0)
    trained = train("control-embedding", folder, {"embedding": embedding}, loss_of, schedule)["embedding"]
    embedding.load_state_dict(trained.state_dict())


def _condition(maps: Sequence[np.ndarray]) -> Tensor:
    """Maps as a ControlNet takes them: float (n, 3, h, w) in [0, 1]."""
    return torch.from_numpy(np.stack(maps)).permute(0, 3, 1, 2).float() / 255


@dataclass(frozen=True, kw_only=True)
class Mapped:
    """A batch: `LOOKS_PER_SCENE` pictures for each map, one after another. latents: (n, 16, size, size); names: int64
    (n, size, size), what their cells show; heads: bool (n, size, size), cells around a head or a hand; ids:
    (n, MAX_TOKENS), a caption of each, many of them empty; condition: (n / LOOKS_PER_SCENE, 3, 8 size, 8 size) in
    [0, 1]."""

    latents: Tensor
    names: Tensor
    heads: Tensor
    ids: Tensor
    condition: Tensor


class MappedScenes:
    """Draws batches of scenes together with maps of them, at latents of side `size`, which is that of `cells`."""

    def __init__(self, corpus: Corpus, data: LatentCorpus, cells: Cells, empty: Tensor, *, size: int) -> None:
        self.corpus, self.data, self.cells, self.empty, self.size = corpus, data, cells, empty, size

    def draw(self, maps: int, generator: torch.Generator, shares: Mapping[ControlName, float] = SHARES) -> Mapped:
        """`maps` maps, of every kind by its share, and the pictures whose layout they decide."""
        chosen = examples(self.corpus, maps, generator, shares)
        rows = torch.tensor([row for example in chosen for row in example.rows])
        latents, ids = self.data.of(rows, self.size, generator)
        # Many captions say nothing, so that the map has to be read (Zhang et al. 2023, section 3.4).
        ids[torch.rand(len(rows), generator=generator) < EMPTY_CAPTION_SHARE] = self.empty
        condition = _condition([TAUGHT[e.kind].map_of(self.corpus, e.scene, e.flipped, 8 * self.size) for e in chosen])
        names, _ = self.cells.of(rows)
        heads = torch.stack([head_cells(e.scene, e.flipped, self.size) for e in chosen])
        heads = heads.repeat_interleave(LOOKS_PER_SCENE, dim=0)
        return Mapped(latents=latents, names=names, heads=heads, ids=ids, condition=condition)


def mapped_v(
    controlnet: ControlNetModel,
    unet: UNet2DConditionModel,
    x_t: Tensor,
    timesteps: Tensor,
    words: Tensor,
    maps: Tensor,
    **conditions: Any,
) -> Tensor:
    """v as `unet` predicts it with `maps`, of which each serves `LOOKS_PER_SCENE` of the pictures. `conditions` are the
    U-Net's further inputs."""
    x_t = x_t.to(memory_format=torch.channels_last)
    with autocast(), each_for(controlnet.controlnet_cond_embedding, LOOKS_PER_SCENE):
        down, mid = controlnet(x_t, timesteps, words, maps, return_dict=False)
        return unet(
            x_t,
            timesteps,
            words,
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
            **conditions,
        ).sample


def train_controlnet(
    controlnet: ControlNetModel,
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    corpus: Corpus,
    data: LatentCorpus,
    cells: Cells,
    folder: Path,
    *,
    size: int,
    minutes: float,
    learning_rate: float = 8e-4,
) -> nn.Module:
    """Train on latents of side `size` for `minutes`; returns the averaged ControlNet."""
    alpha_bar = new_scheduler().alphas_cumprod
    scenes = MappedScenes(corpus, data, cells, empty_ids(tokenizer), size=size)
    unet.requires_grad_(False).to(memory_format=torch.channels_last)
    text_encoder.requires_grad_(False)
    controlnet.to(memory_format=torch.channels_last)

    def loss_of(generator: torch.Generator) -> Tensor:
        mapped = scenes.draw(MAPS[size], generator)
        noise = torch.randn(mapped.latents.shape, generator=generator)
        timesteps = spread_timesteps(len(noise), generator, LAYOUT_NOISE_SKEW)
        x_t, v, weight = noised(mapped.latents, noise, alpha_bar[timesteps])
        with autocast():
            words = embed(text_encoder, mapped.ids)
        predicted = mapped_v(controlnet, unet, x_t, timesteps, words, mapped.condition)
        return weighted_error(predicted, v, weight_of_cells(mapped.names), weight)

    schedule = Schedule(
        minutes=minutes, learning_rate=learning_rate, warmup_steps=50, ema=0.995, weight_decay=0.0, muon=True
    )
    return train("controlnet", folder, {"controlnet": controlnet}, loss_of, schedule)["controlnet"]
