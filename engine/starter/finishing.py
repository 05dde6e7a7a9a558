"""Finishing: the decoder on latents that the denoiser returned, which are ragged where it was unsure.

Half of a batch are pictures encoded, as in the decoder's own training. In the other half no more of the truth is asked
than the noise had left of it; for the rest an adversary must take a crop for one of the corpus in that look. People are
spared: of what was redrawn nobody is shown, and half of what was encoded shows someone, because a head is a few cells,
of which an adversary of patches makes anything.
"""

# torch's modules and the libraries' configs are typed more narrowly than they are
# pyright: reportCallIssue=false

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from engine.starter.adversary import Adversary
from engine.starter.corpus import SIZE_PX, Corpus, picture
from engine.starter.decoder import CROP_PX, reconstruction_loss
from engine.starter.latents import LatentCorpus
from engine.starter.looks import LOOKS
from engine.starter.pixels import to_tensor
from engine.starter.precision import autocast
from engine.starter.redrawing import Redrawn
from engine.starter.training import Schedule, train

BATCH = 6  # of either half
CELL_PX = 8  # of a latent
PEOPLE_SHARE = 0.5  # of the pictures encoded
ADVERSARY_WEIGHT, FEATURES_WEIGHT = 0.15, 3.0  # against the error of pixels


def crops(images: np.ndarray, latents: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The same square of each picture (n, 256, 256, 3) and of its latents (n, 16, 32, 32), as tensors."""
    side, most = CROP_PX // CELL_PX, (SIZE_PX - CROP_PX) // CELL_PX
    corners = torch.randint(most + 1, (len(images), 2), generator=generator).tolist()
    cells = [one[:, y : y + side, x : x + side] for one, (y, x) in zip(latents, corners, strict=True)]
    pixels = [
        image[CELL_PX * y : CELL_PX * (y + side), CELL_PX * x : CELL_PX * (x + side)]
        for image, (y, x) in zip(images, corners, strict=True)
    ]
    return torch.stack(cells).float(), to_tensor(np.stack(pixels))


def train_finished(
    autoencoder: AutoencoderKL, corpus: Corpus, data: LatentCorpus, redrawn: Redrawn, folder: Path, minutes: float
) -> nn.Module:
    """Train for `minutes`; returns the averaged decoder."""
    adversary = Adversary(len(LOOKS))
    nobody = (~torch.isin(redrawn.rows, data.people)).nonzero().flatten()

    def pictures(rows: Tensor) -> np.ndarray:
        """Those of the latents' `rows`, mirrored or not."""
        found = [(corpus[place], flipped) for place, flipped in (divmod(row, 2) for row in rows.tolist())]
        return np.stack([image[:, ::-1] if flipped else image for image, flipped in found])

    def loss_of(generator: torch.Generator) -> Tensor:
        rows = data.rows(BATCH, generator, [(data.people, PEOPLE_SHARE)])
        places = nobody[torch.randint(len(nobody), (BATCH,), generator=generator)]
        of_redrawn = redrawn.rows[places]
        latents, target = crops(
            pictures(torch.cat([rows, of_redrawn])),
            torch.cat([data.latents[32][rows], redrawn.latents[places]]),
            generator,
        )
        with autocast():
            decoded = autoencoder.decoder(latents.to(memory_format=torch.channels_last)).float()
        exact, made = decoded.chunk(2)
        real = target[BATCH:]
        looks = torch.tensor([LOOKS.index(picture(row // 2).look) for row in of_redrawn.tolist()])
        adversary.learn(real, made, looks)
        told_apart, unlike = adversary.against(real, made, looks)
        of_truth = reconstruction_loss(made, real) + FEATURES_WEIGHT * unlike
        loss = reconstruction_loss(exact, target[:BATCH]) + redrawn.left[places] * of_truth
        return (loss + ADVERSARY_WEIGHT * told_apart).mean()

    autoencoder.decoder.to(memory_format=torch.channels_last)
    schedule = Schedule(minutes=minutes, learning_rate=1e-3, warmup_steps=100, weight_decay=0.0, ema=0.99)
    return train("finished", folder, {"decoder": autoencoder.decoder}, loss_of, schedule)["decoder"]
