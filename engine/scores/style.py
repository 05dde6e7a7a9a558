"""Style: whether a picture has the look of a reference without showing what the reference shows.

Style similarity is never read alone: a copy of the reference has all of its style. It stands beside content leakage,
as in InstantStyle (Wang et al. 2024), and both become one number by their harmonic mean. Nothing here knows of adapters
or workspaces.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from engine.cache import ModelCache
from engine.scores.networks import judged, style_embeddings
from engine.scores.prompt import named_kinds
from engine.scores.score import Score, clipped, harmonic_mean

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

TEMPERATURE = 2.0  # softens the judge's looks, so that one it does not know still has a shape
CHANCE = 0.42
"""The similarity of renders to references of other looks than theirs, and ..."""
CEILING = 0.93
"""... what renders of a look score against a reference of it, both by `python -m tests.benchmarks.scores`."""


def style_similarity(picture: "Image", reference: "Image", *, models: ModelCache | None = None) -> float:
    """From 0 to 1: the mean of the cosine in the style encoder and the overlap of the looks that the judge sees.

    The overlap is the Bhattacharyya coefficient of the two distributions over looks. The encoder alone takes palettes
    for looks, the judge alone knows its own looks only; on held-out renders the first reaches an AUC of 0.969, the
    second and the mean 0.999.
    """
    models = models or ModelCache()
    return _similarity(style_embeddings([picture, reference], models), judged([picture, reference], models))


def content_leak(picture: "Image", reference: "Image", prompt: str = "", *, models: ModelCache | None = None) -> float:
    """The probability, from 0 to 1, that the judge sees a thing of the reference in the picture too, unless the prompt
    names it."""
    return _leak(judged([picture, reference], models or ModelCache()), prompt)


def style(picture: "Image", reference: "Image", prompt: str = "", *, models: ModelCache | None = None) -> Score:
    """The harmonic mean of `style_similarity`, as far as it is above chance, and of what did not leak."""
    models = models or ModelCache()
    seen = judged([picture, reference], models)
    similarity = _similarity(style_embeddings([picture, reference], models), seen)
    leak = _leak(seen, prompt)
    return Score(
        name="style",
        title="Look",
        value=harmonic_mean((clipped((similarity - CHANCE) / (1 - CHANCE)), 1 - leak)),
        raw=similarity,
        method="likeness of the look (the starter's style encoder and judge) and of what did not leak, harmonic mean",
        ceiling=CEILING,
        note="What the reference shows has leaked into the picture." if leak > 0.5 else "",
    )


def _similarity(embeddings: "Tensor", seen: "Mapping[str, Tensor]") -> float:
    """Of the first to the second of two pictures: style embeddings (2, 128) of unit length, and the judge's logits."""
    looks = (seen["look"] / TEMPERATURE).softmax(dim=1).sqrt()
    return (clipped(float(embeddings[0] @ embeddings[1])) + float(looks[0] @ looks[1])) / 2


def _leak(seen: "Mapping[str, Tensor]", prompt: str) -> float:
    """Of the second to the first of two pictures, by the judge's logits."""
    from engine.starter.judge import KINDS

    absent = (1 - seen["left_kind"].softmax(dim=1)) * (1 - seen["right_kind"].softmax(dim=1))
    both = (1 - absent).prod(dim=0)
    both[[KINDS.index(kind) for kind in named_kinds(prompt)]] = 0
    return float(both.max())
