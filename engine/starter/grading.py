"""Gradings: random colourings of pictures, which make many styles of every look.

A grading either mixes the channels a little or prints the picture in three tones: dark, middle and light each become a
colour, at the contrast that the picture has or at the full one. Knows tensors only, nothing of networks or of looks.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

UNCHANGED_SHARE, MIXED_SHARE = 0.25, 0.1  # the others are printed in tones
NEGATIVE_SHARE = 0.1  # of what is printed in tones: light on dark
STRETCHED_SHARE = 0.5  # of what is printed in tones: at full contrast
_DARKEST, _LIGHTEST, _LEAST_CONTRAST = 0.02, 0.98, 0.2  # quantiles of luma, and how far apart they are at least
_LUMA = torch.tensor([0.299, 0.587, 0.114])


@dataclass(frozen=True, kw_only=True)
class Gradings:
    """One for each of n pictures. gamma: (n,); matrix: (n, 3, 3), of the channels; tones: (n, 3, 3), the colours of
    dark, middle and light in [0, 1]; toned: bool (n,), whether these take the place of the channels; stretched: bool
    (n,), whether luma is brought to full contrast before."""

    gamma: Tensor
    matrix: Tensor
    tones: Tensor
    toned: Tensor
    stretched: Tensor


def random_gradings(count: int, generator: torch.Generator) -> Gradings:
    """`count` gradings, of which `UNCHANGED_SHARE` leave the picture as it is."""

    def uniform(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator)

    def normal(*shape: int) -> Tensor:
        return torch.randn(count, *shape, generator=generator)

    kind = uniform()
    changed = kind >= UNCHANGED_SHARE
    identity = torch.eye(3).expand(count, 3, 3)
    mixed = identity + 0.25 * normal(3, 3)
    dark, light = 0.6 * uniform(1) * uniform(3), 1 - 0.6 * uniform(1) * uniform(3)
    middle = torch.lerp(dark, light, 0.3 + 0.4 * uniform(1)) + 0.15 * uniform(1).round() * normal(3)
    tones = torch.stack([dark, middle, light], dim=1).clamp(0, 1)
    return Gradings(
        gamma=torch.where(changed, torch.exp(0.35 * normal()), 1.0),
        matrix=torch.where(changed[:, None, None], mixed, identity),
        tones=torch.where(uniform(1, 1) < NEGATIVE_SHARE, tones.flip(1), tones),
        toned=kind >= UNCHANGED_SHARE + MIXED_SHARE,
        stretched=uniform() < STRETCHED_SHARE,
    )


def graded(pictures: Tensor, gradings: Gradings) -> Tensor:
    """Pictures (n, 3, h, w) in [-1, 1] under their gradings, in [-1, 1]."""
    x = ((pictures + 1) / 2).clamp(0, 1) ** gradings.gamma[:, None, None, None]
    mixed = torch.einsum("nij,njhw->nihw", gradings.matrix, x)
    luma = torch.einsum("c,nchw->nhw", _LUMA, x)[:, None]
    outer = luma[..., ::4, ::4].flatten(1).quantile(torch.tensor([_DARKEST, _LIGHTEST]), dim=1)
    least, most = outer[:, :, None, None, None]
    full = ((luma - least) / (most - least).clamp(min=_LEAST_CONTRAST)).clamp(0, 1)
    luma = torch.where(gradings.stretched[:, None, None, None], full, luma)
    dark, middle, light = gradings.tones[..., None, None].unbind(dim=1)
    printed = torch.where(luma < 0.5, torch.lerp(dark, middle, 2 * luma), torch.lerp(middle, light, 2 * luma - 1))
    chosen = torch.where(gradings.toned[:, None, None, None], printed, mixed)
    return chosen.clamp(0, 1) * 2 - 1
