"""Small detectors of depth, normals and what lies where, trained on renders whose truth is exact.

One SegFormer (Xie et al. 2021) is trained on all three at once and exported as three ordinary
`SegformerForSemanticSegmentation` folders, which differ in their last layer: their logits are the relative inverse
depth (1), the normal in the camera's coordinates (3), and the classes of ADE20K (150). Renders are not photos, so
most pictures are close-ups, all are cropped, re-coloured, grained, blurred, and often cut out and put before something
plain. Knows nothing of diffusion.
"""

# torch's modules and the libraries' configs are typed more narrowly than they are
# pyright: reportCallIssue=false, reportArgumentType=false

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from engine.starter.ade20k import UNKNOWN, WALL, classes_of
from engine.starter.corpus import FIRST_THING, LOOKS_PER_SCENE, CloseUps, Corpus, scene
from engine.starter.pixels import to_tensor
from engine.starter.precision import autocast
from engine.starter.training import Schedule, train

OUTPUTS = {"depth": 1, "normal": 3, "segmentation": 150}
SIDES_PX = (128, 256)  # of a batch's pictures, in turn
STEP_PX = 4  # a logit stands for so many pixels, along each side
BATCH = 16
PHOTO_SHARE = 0.6  # of the pictures; the rest are in other looks
CUT_OUT_SHARE = 0.6  # products are often shown so
PLAIN_SHARE = 0.6  # of the walls behind what is cut out; the others are a gradient
THING_WEIGHT = 4.0  # of a normal on a thing, against 1 elsewhere, where most are alike
NORMAL_WEIGHT, CLASS_WEIGHT = 6.0, 0.5  # of the losses of normals and classes, against depth's
LEAST_CROP = 0.6
CLOSE_UP_SHARE = 0.8  # of the batches: in a photo of a product it fills the frame, in the world's scenes it does not
GRAIN = 0.5  # the most, as a deviation: stone and fur have more texture than shading
_LAST = "decode_head.classifier."  # the names of the last layer's weights begin with it


def segformer(outputs: int) -> SegformerForSemanticSegmentation:
    """A SegFormer of 1.6 M parameters."""
    return SegformerForSemanticSegmentation(
        SegformerConfig(
            num_labels=outputs,
            hidden_sizes=(32, 64, 128, 160),
            depths=(1, 2, 2, 1),
            num_attention_heads=(1, 2, 4, 5),
            mlp_ratios=(2, 2, 4, 4),
            decoder_hidden_size=96,
            classifier_dropout_prob=0.0,
            drop_path_rate=0.0,
        )
    )


def _by_kind(outputs: Tensor, dim: int = 0) -> dict[str, Tensor]:
    return dict(zip(OUTPUTS, outputs.split(list(OUTPUTS.values()), dim=dim), strict=True))


class Detectors(nn.Module):
    """Three SegFormers that share all but their last layer. Pictures (n, 3, h, w) in [-1, 1] -> logits by kind, (n,
    outputs, h/4, w/4)."""

    def __init__(self) -> None:
        super().__init__()
        self.model = segformer(sum(OUTPUTS.values()))

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        return _by_kind(self.model(pictures).logits, dim=1)

    def load(self, models: Mapping[str, SegformerForSemanticSegmentation]) -> None:
        """Take over the weights of what `exported` returned; what the models share, from the first."""
        states = [models[kind].state_dict() for kind in OUTPUTS]
        last = {name: torch.cat([state[name] for state in states]) for name in states[0] if name.startswith(_LAST)}
        self.model.load_state_dict(states[0] | last)

    def exported(self) -> dict[str, SegformerForSemanticSegmentation]:
        """One model for each kind."""
        models = {kind: segformer(outputs) for kind, outputs in OUTPUTS.items()}
        state = self.model.state_dict()
        last = {name: _by_kind(weights) for name, weights in state.items() if name.startswith(_LAST)}
        for kind, model in models.items():
            model.load_state_dict(state | {name: parts[kind] for name, parts in last.items()})
        return models


@dataclass(frozen=True, kw_only=True)
class Views:
    """A batch. pictures: (n, 3, H, W) in [-1, 1]; depth: (n, h, w), any scale, near is high; normals: (n, 3, h, w),
    any length; classes: int64 (n, h, w); things: bool (n, h, w), not wall, sky or ground."""

    pictures: Tensor
    depth: Tensor
    normals: Tensor
    classes: Tensor
    things: Tensor


def views_of(images: np.ndarray, truth: Corpus | CloseUps, places: np.ndarray, classes: Sequence[np.ndarray]) -> Views:
    """Pictures (n, 256, 256, 3) with what is true of them: `places` of `truth`, at the truth's size, and the class of
    each of their segments."""
    segments = torch.from_numpy(truth.segments[places])
    names = [torch.from_numpy(one) for one in classes]
    return Views(
        pictures=to_tensor(images),
        depth=torch.from_numpy(truth.depth[places]).float() / 255,
        normals=torch.from_numpy(truth.normals[places]).permute(0, 3, 1, 2).float() / 127.5 - 1,
        classes=torch.stack([name[s.long()] for name, s in zip(names, segments, strict=True)]).long(),
        things=segments >= FIRST_THING,
    )


def views_from(corpus: Corpus, close_ups: Sequence[CloseUps], generator: torch.Generator) -> Views:
    """A batch: close-ups of one sort or whole scenes, `PHOTO_SHARE` of these as photos, the others in other looks."""
    if torch.rand((), generator=generator) < CLOSE_UP_SHARE:
        some = close_ups[int(torch.randint(len(close_ups), (), generator=generator))]
        places = torch.randint(len(some), (BATCH,), generator=generator).numpy()
        return views_of(some.images[places], some, places, [some.classes[place] for place in places])
    rows = torch.randint(len(corpus), (BATCH,), generator=generator)
    photo = torch.rand(BATCH, generator=generator) < PHOTO_SHARE
    rows = torch.where(photo, rows // LOOKS_PER_SCENE * LOOKS_PER_SCENE, rows)
    scenes = (rows // LOOKS_PER_SCENE).numpy()
    return views_of(
        np.stack([corpus[row] for row in rows.tolist()]),
        corpus,
        scenes,
        [classes_of(scene(i)) for i in scenes.tolist()],
    )


def cut_out(views: Views, where: Tensor, generator: torch.Generator) -> Views:
    """In the pictures of `where` (n,), a plain wall far behind instead of all but the things."""
    count, _, height, width = views.pictures.shape
    replaced = where[:, None, None] & ~views.things
    top, bottom = (torch.rand(2, count, 3, 1, 1, generator=generator) * 2 - 1).unbind()
    plain = torch.rand(count, 1, 1, 1, generator=generator) < PLAIN_SHARE
    bottom = torch.where(plain, top, bottom)
    wall = torch.lerp(top, bottom, torch.linspace(0, 0.5, height)[:, None]).expand(-1, -1, -1, width)
    fine = nn.functional.interpolate(replaced[:, None].float(), (height, width), mode="bilinear")
    facing = torch.tensor([0.0, 0.0, 1.0])[:, None, None]
    return Views(
        pictures=torch.lerp(views.pictures, wall, fine),
        depth=torch.where(replaced, 0.0, views.depth),
        normals=torch.where(replaced[:, None], facing, views.normals),
        classes=torch.where(replaced, WALL, views.classes),
        things=views.things,
    )


def cropped(views: Views, generator: torch.Generator) -> Views:
    """Every other picture mirrored, each cut to a part of it and stretched to the full size again."""
    count = len(views.pictures)
    side = LEAST_CROP + (1 - LEAST_CROP) * torch.rand(count, generator=generator)
    mirror = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    middle = (1 - side)[:, None] * (2 * torch.rand(count, 2, generator=generator) - 1)
    matrix = torch.zeros(count, 2, 3)
    matrix[:, 0, 0], matrix[:, 1, 1], matrix[:, :, 2] = side * mirror, side, middle

    def sample(x: Tensor, mode: str) -> Tensor:
        grid = nn.functional.affine_grid(matrix, [count, 1, *x.shape[-2:]], align_corners=False)
        return nn.functional.grid_sample(x, grid, mode=mode, padding_mode="border", align_corners=False)

    flip = torch.stack([mirror, torch.ones(count), torch.ones(count)], dim=1)[:, :, None, None]
    return Views(
        pictures=sample(views.pictures, "bilinear"),
        depth=sample(views.depth[:, None], "bilinear")[:, 0],
        normals=sample(views.normals, "bilinear") * flip,
        classes=sample(views.classes[:, None].float(), "nearest")[:, 0].long(),
        things=sample(views.things[:, None].float(), "nearest")[:, 0].bool(),
    )


def shrunk(views: Views, side_px: int) -> Views:
    """Pictures of so many pixels, and the truth at the size of their logits."""
    size = (side_px // STEP_PX, side_px // STEP_PX)
    scale = nn.functional.interpolate

    def nearest(x: Tensor) -> Tensor:
        return scale(x[:, None].float(), size, mode="nearest-exact")[:, 0]

    return Views(
        pictures=scale(views.pictures, (side_px, side_px), mode="bilinear", antialias=True),
        depth=scale(views.depth[:, None], size, mode="area")[:, 0],
        normals=scale(views.normals, size, mode="area"),
        classes=nearest(views.classes).long(),
        things=nearest(views.things).bool(),
    )


def recoloured(views: Views, generator: torch.Generator) -> Tensor:
    """The pictures with a gain and a shift of each channel, noise, grain of one to four pixels on the things, and in a
    third of the batches a blur."""
    pictures = views.pictures
    count, _, height, width = pictures.shape

    def normal(*shape: int) -> Tensor:
        return torch.randn(count, *shape, generator=generator)

    def upto(most: float) -> Tensor:
        return most * torch.rand(count, 1, 1, 1, generator=generator)

    pixels = int(torch.randint(1, 5, (), generator=generator))
    grain = nn.functional.interpolate(normal(1, height // pixels, width // pixels), (height, width), mode="bilinear")
    things = nn.functional.interpolate(views.things[:, None].float(), (height, width), mode="nearest-exact")
    pictures = pictures * (1 + 0.2 * normal(3, 1, 1)) + 0.2 * normal(3, 1, 1)
    amount = GRAIN * upto(1).square()  # little on most
    pictures = pictures + upto(0.06) * normal(3, height, width) + amount * grain * things
    if torch.rand((), generator=generator) < 1 / 3:
        pictures = nn.functional.avg_pool2d(pictures, 3, stride=1, padding=1, count_include_pad=False)
    return pictures.clamp(-1, 1)


def standardised(depth: Tensor) -> Tensor:
    """Depth (n, h, w) without its shift and scale, which a picture does not tell: mean 0, deviation 1."""
    return (depth - depth.mean(dim=(1, 2), keepdim=True)) / (depth.std(dim=(1, 2), keepdim=True) + 1e-3)


def angle(a: Tensor, b: Tensor) -> Tensor:
    """Between vectors (n, 3, ...) of any length, in radians, (n, ...); its slope is finite where they agree."""
    return torch.atan2(torch.linalg.cross(a, b, dim=1).norm(dim=1), (a * b).sum(dim=1))


def detection_loss(logits: Mapping[str, Tensor], views: Views) -> Tensor:
    """Absolute error of standardised depth (as MiDaS: Ranftl et al. 2020), the angle between normals in radians (as Bae
    et al. 2021), which weighs more on things, and cross entropy. The truth has the size of the logits."""
    depth = (standardised(logits["depth"][:, 0].float()) - standardised(views.depth)).abs().mean()
    weight = torch.where(views.things, THING_WEIGHT, 1.0)
    normal = (weight * angle(logits["normal"].float(), views.normals)).mean() / weight.mean()
    classes = nn.functional.cross_entropy(logits["segmentation"].float(), views.classes, ignore_index=UNKNOWN)
    return depth + NORMAL_WEIGHT * normal + CLASS_WEIGHT * classes


def train_detectors(
    detectors: Detectors, corpus: Corpus, close_ups: Sequence[CloseUps], folder: Path, minutes: float
) -> Detectors:
    """Train for `minutes`; returns the averaged detectors."""
    detectors.to(memory_format=torch.channels_last)

    def loss_of(generator: torch.Generator) -> Tensor:
        views = views_from(corpus, close_ups, generator)
        views = cut_out(views, torch.rand(BATCH, generator=generator) < CUT_OUT_SHARE, generator)
        side_px = SIDES_PX[int(torch.randint(len(SIDES_PX), (), generator=generator))]
        views = shrunk(cropped(views, generator), side_px)
        pictures = recoloured(views, generator).to(memory_format=torch.channels_last)
        with autocast():
            logits = detectors(pictures)
        return detection_loss(logits, views)

    schedule = Schedule(minutes=minutes, learning_rate=1e-3, warmup_steps=50, ema=0.99, muon=True)
    trained = train("detectors", folder, {"detectors": detectors}, loss_of, schedule)["detectors"]
    assert isinstance(trained, Detectors)
    return trained
