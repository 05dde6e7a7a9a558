"""How well a picture kept the subject it was asked for: a number, its method and its ceiling.

Offline the features are those of the starter's judge, a network that tells things, colours and looks of the starter's
world apart. A score is read beside its ceiling: the same score on real photos.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


def subject_similarity(pictures: Sequence["Image"], photos: Sequence["Image"], *, starter: Path) -> float:
    """How alike the subject in `pictures` and in `photos` is, from 0 to 1.

    Each picture's mean cosine similarity to the photos, averaged over the pictures (DINO score of DreamBooth, Ruiz et
    al. 2023, with the judge's features). Negative similarities count as 0.
    """
    similarity = _features(pictures, starter) @ _features(photos, starter).T
    return float(similarity.mean().clamp(min=0))


def subject_ceiling(photos: Sequence["Image"], held_out: Sequence["Image"], *, starter: Path) -> float:
    """What real photos of the subject score: `photos` against `held_out` ones."""
    return subject_similarity(photos, held_out, starter=starter)


@cache
def _judge(starter: Path) -> Any:
    from engine.starter.judge import load_judge

    return load_judge(starter)


def _features(images: Sequence["Image"], starter: Path) -> "Tensor":
    """Unit feature vectors, (n, channels), centred so that unrelated pictures are near 0."""
    import numpy as np
    import torch

    from engine.starter.judge import shrink

    with torch.no_grad():
        features = _judge(starter).embed(shrink([np.asarray(image.convert("RGB")) for image in images]))
    return torch.nn.functional.normalize(features, dim=1)
