"""The judge: a classifier trained on renders that says what a picture shows, so that prompts can be checked.

It names the leftmost and the rightmost thing (for a single thing both are the same), their colours, the setting and
the look. Its own accuracy on held-out renders is the ceiling that every figure is divided by. It learns renders as
they are and as the autoencoder returns them, because what it judges came out of an autoencoder: the finest grain of a
look is lost there, and must not decide. Knows nothing of denoisers.
"""

# torch's modules and the libraries' configs are typed more narrowly than they are
# pyright: reportCallIssue=false, reportArgumentType=false

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file
from torch import Tensor, nn

from engine.starter.corpus import Corpus, Picture, picture
from engine.starter.latents import LatentCorpus
from engine.starter.looks import COLOURLESS_LOOKS, HELD_OUT_LOOKS, LOOKS
from engine.starter.pixels import to_tensor
from engine.starter.precision import autocast
from engine.starter.training import Schedule, train
from engine.starter.world import COLOURS, OBJECTS, PERSON, SETTINGS, Scene

KINDS = (*OBJECTS, PERSON)
COLOUR_NAMES = tuple(COLOURS)
ALL_LOOKS = (*LOOKS, *HELD_OUT_LOOKS)
HEADS = {
    "left_kind": len(KINDS),
    "right_kind": len(KINDS),
    "left_colour": len(COLOUR_NAMES),
    "right_colour": len(COLOUR_NAMES),
    "setting": len(SETTINGS),
    "look": len(ALL_LOOKS),
}
SIDE_PX = 128
BATCH = 48
DECODED, DECODED_SHARE = 3000, 0.5  # pictures that the autoencoder returned, and their share of a batch
MOST_NOISE = 0.05  # as a deviation, in [-1, 1]
UNKNOWN = -100  # a colour that the look does not show


class Judge(nn.Module):
    """Pictures (n, 3, 128, 128) in [-1, 1] -> logits of each head."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 48, 96, 160, 224)
        stages: list[nn.Module] = []
        for i, (before, after) in enumerate(itertools.pairwise(widths)):
            stages += [nn.Conv2d(before, after, 3, stride=2 if i < 4 else 1, padding=1), nn.BatchNorm2d(after)]
            stages += [nn.ReLU(), nn.Conv2d(after, after, 3, padding=1, groups=8), nn.BatchNorm2d(after), nn.ReLU()]
        self.features = nn.Sequential(*stages)
        # 8x8 places are pooled to 2x4, so that left and right stay apart.
        self.hidden = nn.Sequential(nn.Dropout(0.2), nn.Linear(widths[-1] * 8, 384), nn.ReLU(), nn.Dropout(0.2))
        self.heads = nn.ModuleDict({name: nn.Linear(384, classes) for name, classes in HEADS.items()})

    def embed(self, pictures: Tensor) -> Tensor:
        """What the heads read, (n, 384), before its rectifier."""
        features = nn.functional.adaptive_max_pool2d(self.features(pictures), (2, 4)).flatten(1)
        return self.hidden[:2](features)

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        hidden = self.hidden[2:](self.embed(pictures))
        return {name: head(hidden) for name, head in self.heads.items()}


def labels(scene: Scene, look: str) -> dict[str, int]:
    """The right class of each head."""
    left, right = scene.things[0], scene.things[-1]
    shown = look not in COLOURLESS_LOOKS
    return {
        "left_kind": KINDS.index(left.kind),
        "right_kind": KINDS.index(right.kind),
        "left_colour": COLOUR_NAMES.index(left.colour) if shown else UNKNOWN,
        "right_colour": COLOUR_NAMES.index(right.colour) if shown else UNKNOWN,
        "setting": SETTINGS.index(scene.setting),
        "look": ALL_LOOKS.index(look),
    }


def shrink(images: Sequence[np.ndarray]) -> Tensor:
    """uint8 pictures of any size -> float (n, 3, 128, 128) in [-1, 1]."""
    size = (SIDE_PX, SIDE_PX)
    return to_tensor(np.stack([cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in images]))


@torch.no_grad()
def decoded_thumbnails(data: LatentCorpus, autoencoder: AutoencoderKL, rows: Tensor) -> Tensor:
    """The corpus's pictures `rows` (n,) as the autoencoder returns them: uint8 (n, 3, 128, 128)."""
    result = []
    for some in rows.split(16):
        decoded = autoencoder.decode(data.latents[32][2 * some].float()).sample
        small = nn.functional.interpolate(decoded, size=(SIDE_PX, SIDE_PX), mode="area")
        result.append(((small + 1) * 127.5).round().clamp(0, 255).byte())
    return torch.cat(result)


def train_judge(
    judge: Judge, corpus: Corpus, data: LatentCorpus, autoencoder: AutoencoderKL, folder: Path, minutes: float
) -> nn.Module:
    """Train on the corpus, as it is and decoded, mirrored and jittered in brightness and contrast; returns the averaged
    judge."""
    from engine.starter.corpus import mirrored

    judge.train().to(memory_format=torch.channels_last)

    def label_row(shown: Picture) -> list[int]:
        scene = mirrored(shown.scene) if shown.flipped else shown.scene
        return list(labels(scene, shown.look).values())

    pictures = torch.from_numpy(corpus.thumbnails(SIDE_PX)).permute(0, 3, 1, 2)
    truth = torch.tensor(
        [[label_row(picture(row, flipped=flipped)) for flipped in (False, True)] for row in range(len(corpus))]
    )
    decoded_rows = torch.randperm(len(corpus), generator=torch.Generator().manual_seed(0))[:DECODED]
    decoded = decoded_thumbnails(data, autoencoder, decoded_rows)

    def loss_of(generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(corpus), (BATCH,), generator=generator)
        x = pictures[rows]
        through = round(DECODED_SHARE * BATCH)
        place = torch.randint(DECODED, (through,), generator=generator)
        rows[:through], x[:through] = decoded_rows[place], decoded[place]
        x = x.float() / 127.5 - 1
        flipped = torch.rand(BATCH, generator=generator) < 0.5
        x = torch.where(flipped[:, None, None, None], x.flip(-1), x)
        gain = 1 + 0.1 * torch.randn(BATCH, 1, 1, 1, generator=generator)
        shift = 0.05 * torch.randn(BATCH, 1, 1, 1, generator=generator)
        noise = MOST_NOISE * torch.rand(BATCH, 1, 1, 1, generator=generator)
        x = x * gain + shift + noise * torch.randn(x.shape, generator=generator)
        right = truth[rows, flipped.long()]
        with autocast():
            logits = judge(x.to(memory_format=torch.channels_last))
        losses = [
            nn.functional.cross_entropy(logits[name].float(), right[:, i], ignore_index=UNKNOWN, label_smoothing=0.05)
            for i, name in enumerate(HEADS)
        ]
        return torch.stack(losses).sum()

    schedule = Schedule(minutes=minutes, learning_rate=2e-3, warmup_steps=50, weight_decay=0.02, ema=0.995)
    return train("judge", folder, {"judge": judge}, loss_of, schedule)["judge"]


def load_judge(starter: Path) -> Judge:
    """The judge that lies beside the starter in the folder `starter`."""
    judge = Judge()
    judge.load_state_dict(load_file(starter / "judge" / "judge.safetensors"))
    return judge.float().eval()


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the judge sees in one picture."""

    kinds: tuple[str, str]
    colours: tuple[str, str]
    setting: str
    look: str


@torch.no_grad()
def judge_pictures(judge: nn.Module, images: Sequence[np.ndarray]) -> list[Verdict]:
    """The verdict on each uint8 picture."""
    names = {
        "left_kind": KINDS,
        "right_kind": KINDS,
        "left_colour": COLOUR_NAMES,
        "right_colour": COLOUR_NAMES,
        "setting": SETTINGS,
        "look": ALL_LOOKS,
    }
    verdicts = []
    for first in range(0, len(images), 64):
        logits = judge(shrink(images[first : first + 64]))
        best = {head: [names[head][i] for i in logits[head].argmax(dim=1).tolist()] for head in HEADS}
        for i in range(len(best["look"])):
            verdicts.append(
                Verdict(
                    kinds=(best["left_kind"][i], best["right_kind"][i]),
                    colours=(best["left_colour"][i], best["right_colour"][i]),
                    setting=best["setting"][i],
                    look=best["look"][i],
                )
            )
    return verdicts


def accuracy(verdicts: Sequence[Verdict], asked: Sequence[tuple[Scene, str]]) -> dict[str, float]:
    """Shares of what was asked that is seen.

    object: of the things asked, those whose kind is seen on either side. colour: of the things asked in looks that
    show colour, those whose colour is seen on either side. left_right: of the scenes with two things, those with both
    kinds on their sides. setting, look: as named.
    """
    hits: dict[str, list[bool]] = {"object": [], "colour": [], "setting": [], "look": [], "left_right": []}
    for verdict, (scene, look) in zip(verdicts, asked, strict=True):
        for thing in scene.things:
            hits["object"].append(thing.kind in verdict.kinds)
            if look not in COLOURLESS_LOOKS:
                hits["colour"].append(thing.colour in verdict.colours)
        if len(scene.things) == 2:
            hits["left_right"].append(verdict.kinds == (scene.things[0].kind, scene.things[1].kind))
        hits["setting"].append(verdict.setting == scene.setting)
        hits["look"].append(verdict.look == look)
    return {name: float(np.mean(values)) if values else 0.0 for name, values in hits.items()}
