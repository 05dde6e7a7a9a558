"""The reader: what lies in each cell of a picture's latents, and the features with which it sees that.

The squared error of a denoiser weighs every latent alike, so a mug whose handle is gone costs little. The reader was
trained on the renderer's own segmentation, sees kinds and colours through a little noise, and turns that around: the
denoiser's x0 must look right to it (features, as LPIPS does: Zhang et al. 2018; in latent space: E-LatentLPIPS, Kang et
al. 2024), must be named right cell by cell, and must show its look. It is used in training only; the judge, which
scores the starter, is another network. Knows nothing of diffusion.
"""

# torch's modules are typed more narrowly than they are
# pyright: reportCallIssue=false

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from engine.starter.corpus import LOOKS_PER_SCENE, Corpus, picture
from engine.starter.latents import LatentCorpus
from engine.starter.linear_code import LATENT_CHANNELS
from engine.starter.looks import COLOURLESS_LOOKS, LOOKS
from engine.starter.precision import autocast
from engine.starter.training import Schedule, train
from engine.starter.world import COLOURS, OBJECTS, PERSON, SETTINGS

# What a cell can be: wall or sky, ground, or a kind of thing.
CELL_NAMES = ("backdrop", "ground", *OBJECTS, PERSON)
FIRST_THING = 2  # names from here on are things
COLOUR_NAMES = tuple(COLOURS)
UNKNOWN = -100  # a colour where there is no thing, or the look shows none
WIDTHS = (64, 128, 192)
BATCH = 64
MOST_NOISE = 0.8
FEATURES_WEIGHT, NAMING_WEIGHT, LOOK_WEIGHT = 0.3, 0.1, 0.05


@dataclass(frozen=True, kw_only=True)
class Cells:
    """The truth of every row of a `LatentCorpus`, at its latents' size.

    names, colours: uint8 (scenes, side, side), places in `CELL_NAMES` and `COLOUR_NAMES`, of scenes that are not
    mirrored; colourless: bool (rows), whether the row's look shows no colour; setting, look: int64 (rows).
    """

    names: Tensor
    colours: Tensor
    colourless: Tensor
    setting: Tensor
    look: Tensor

    def of(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Names and colours of the cells of `rows` of the latents, int64 (n, side, side)."""
        scenes, mirrored = rows // (2 * LOOKS_PER_SCENE), rows % 2 == 1
        names, colours = self.names[scenes].long(), self.colours[scenes].long()
        colours[names < FIRST_THING] = UNKNOWN
        colours[self.colourless[rows]] = UNKNOWN
        where = mirrored[:, None, None]
        return torch.where(where, names.flip(-1), names), torch.where(where, colours.flip(-1), colours)


def cells_of(corpus: Corpus, side: int) -> Cells:
    """Label the corpus at `side` cells (16 or 32)."""
    segments = corpus.segments
    step = segments.shape[-1] // side
    segments = segments[:, step // 2 :: step, step // 2 :: step]
    scenes = [picture(LOOKS_PER_SCENE * index).scene for index in range(len(segments))]
    names, colours = segments.copy(), np.zeros_like(segments)
    for index, scene in enumerate(scenes):
        for place, thing in enumerate(scene.things):
            here = segments[index] == 2 + place
            names[index][here] = CELL_NAMES.index(thing.kind)
            colours[index][here] = COLOUR_NAMES.index(thing.colour)
    looks = [picture(row).look for row in range(len(corpus))]
    per_row = torch.arange(2 * len(corpus)) // 2
    return Cells(
        names=torch.from_numpy(names),
        colours=torch.from_numpy(colours),
        colourless=torch.tensor([look in COLOURLESS_LOOKS for look in looks])[per_row],
        setting=torch.tensor([SETTINGS.index(s.setting) for s in scenes])[per_row // LOOKS_PER_SCENE],
        look=torch.tensor([LOOKS.index(look) for look in looks])[per_row],
    )


class _Block(nn.Module):
    """y = x + conv(silu(norm(conv(silu(norm(x))))))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Logits: names (n, kinds, side, side), colours (n, 10, side, side), setting (n, 7), look (n, 10). features: the
    three levels that they were read from, fine to coarse."""

    names: Tensor
    colours: Tensor
    setting: Tensor
    look: Tensor
    features: Sequence[Tensor]


class Reader(nn.Module):
    """Latents (n, 16, side, side) -> `Reading`; three levels down and up again."""

    def __init__(self) -> None:
        super().__init__()
        fine, middle, coarse = WIDTHS
        self.enter = nn.Conv2d(LATENT_CHANNELS, fine, 3, padding=1)
        self.levels = nn.ModuleList(_Block(width) for width in WIDTHS)
        self.down = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in ((fine, middle), (middle, coarse))
        )
        self.up = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in ((fine, middle), (middle, coarse)))
        self.back = nn.ModuleList(_Block(width) for width in (fine, middle))
        self.cells = nn.Conv2d(fine, len(CELL_NAMES) + len(COLOUR_NAMES), 1)
        self.whole = nn.Linear(sum(WIDTHS), len(SETTINGS) + len(LOOKS))

    def forward(self, latents: Tensor) -> Reading:
        fine = self.levels[0](self.enter(latents))
        middle = self.levels[1](self.down[0](fine))
        coarse = self.levels[2](self.down[1](middle))
        x = self.back[1](middle + nn.functional.interpolate(self.up[1](coarse), scale_factor=2.0))
        x = self.back[0](fine + nn.functional.interpolate(self.up[0](x), scale_factor=2.0))
        names, colours = self.cells(x).split((len(CELL_NAMES), len(COLOUR_NAMES)), dim=1)
        pooled = torch.cat([level.mean(dim=(2, 3)) for level in (fine, middle, coarse)], dim=1)
        setting, look = self.whole(pooled).split((len(SETTINGS), len(LOOKS)), dim=1)
        return Reading(names=names, colours=colours, setting=setting, look=look, features=(fine, middle, coarse))


class InnerHead(nn.Module):
    """Names the cells from features inside the denoiser: (n, width, side, side) -> logits of names and of colours.

    Trained along and thrown away, it makes the denoiser decide early what lies where; as REPA (Yu et al. 2025), with
    the renderer's truth for a teacher.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.cells = nn.Conv2d(width, len(CELL_NAMES) + len(COLOUR_NAMES), 1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.cells(nn.functional.silu(self.norm(features)))
        names, colours = logits.split((len(CELL_NAMES), len(COLOUR_NAMES)), dim=1)
        return names, colours


def feature_distance(one: Reading, other: Reading) -> Tensor:
    """Mean squared distance of the features, normalised over channels at every place (LPIPS), (n,)."""
    total = torch.zeros(len(one.names))
    for a, b in zip(one.features, other.features, strict=True):
        a, b = (nn.functional.normalize(x.float(), dim=1) for x in (a, b))
        total = total + (a - b).square().sum(dim=1).mean(dim=(1, 2))
    return total


def naming_loss(name_logits: Tensor, colour_logits: Tensor, names: Tensor, colours: Tensor) -> Tensor:
    """Cross entropy of the cells' names and, where there is one to see, colours, (n,)."""
    named = nn.functional.cross_entropy(name_logits.float(), names, reduction="none").mean(dim=(1, 2))
    coloured = nn.functional.cross_entropy(colour_logits.float(), colours, ignore_index=UNKNOWN, reduction="none")
    shown = (colours != UNKNOWN).sum(dim=(1, 2)).clamp(min=1)
    return named + 0.2 * coloured.sum(dim=(1, 2)) / shown


def perception_loss(
    reader: nn.Module, x0: Tensor, latents: Tensor, names: Tensor, colours: Tensor, look: Tensor
) -> Tensor:
    """How unlike `latents` their estimate `x0` looks to the reader, and how badly it names the estimate's cells and its
    look, (n,).

    x0, latents: (n, 16, side, side); names, colours: as `Cells.of` gives them; look: int64 (n,), places in `LOOKS`.
    """
    seen = reader(x0.to(memory_format=torch.channels_last))
    with torch.no_grad():
        true = reader(latents.to(memory_format=torch.channels_last))
    named = naming_loss(seen.names, seen.colours, names, colours)
    of_look = nn.functional.cross_entropy(seen.look.float(), look, reduction="none")
    return FEATURES_WEIGHT * feature_distance(seen, true) + NAMING_WEIGHT * named + LOOK_WEIGHT * of_look


def train_reader(data: LatentCorpus, cells: Cells, folder: Path, *, size: int, minutes: float) -> nn.Module:
    """Train on latents of side `size` with up to `MOST_NOISE` of noise for `minutes`; returns the averaged reader."""
    torch.manual_seed(0)
    reader = Reader().to(memory_format=torch.channels_last)

    def loss_of(generator: torch.Generator) -> Tensor:
        rows = data.rows(BATCH, generator)
        latents, _ = data.of(rows, size, generator)
        sigma = MOST_NOISE * torch.rand(BATCH, 1, 1, 1, generator=generator)
        noisy = latents + sigma * torch.randn(latents.shape, generator=generator)
        names, colours = cells.of(rows)
        with autocast():
            reading = reader(noisy.to(memory_format=torch.channels_last))
        whole = nn.functional.cross_entropy(reading.setting.float(), cells.setting[rows])
        whole = whole + nn.functional.cross_entropy(reading.look.float(), cells.look[rows])
        return naming_loss(reading.names, reading.colours, names, colours).mean() + 0.2 * whole

    schedule = Schedule(minutes=minutes, learning_rate=2e-3, warmup_steps=50, ema=0.99)
    return train(f"reader-{size}", folder, {"reader": reader}, loss_of, schedule)["reader"]


def load_reader(folder: Path, size: int) -> Reader:
    """The averaged reader that `train_reader` left in `folder`, frozen."""
    reader = Reader().to(memory_format=torch.channels_last)
    saved = torch.load(folder / f"reader-{size}.pt", weights_only=True)
    reader.load_state_dict(saved["averages"]["reader"])
    return reader.eval().requires_grad_(False)
