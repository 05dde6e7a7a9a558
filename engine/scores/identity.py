"""Identity: whether a picture shows the very subject of the photos that a LoRA was taught with.

A picture's mean similarity to the photos (the DINO score of DreamBooth, Ruiz et al. 2023), with one of several
networks' features; its ceiling is what the photos reach among themselves. Nothing here knows of LoRAs or workspaces.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.cache import ModelCache, ValueCache
from engine.controls import EMBEDDED
from engine.errors import NothingDetected
from engine.photo import cropped, suggest_crop
from engine.samples import load_samples
from engine.scores import face
from engine.scores.networks import DINO, at_hand, dino_features, judged
from engine.scores.score import Score, clipped

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

SIDE_PX = 256

_VALUES = ValueCache()


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to tell subjects apart. `features(images, models)` gives (n, width); `similarity(one, other)` of two such
    (n, m), 1 for the same picture and `worst` at the least. `source` is "embedded", or the network on the Hub."""

    name: str
    title: str
    features: "Callable[[Sequence[Image], ModelCache], Tensor]"
    similarity: "Callable[[Tensor, Tensor], Tensor]"
    source: str = EMBEDDED
    worst: float = -1.0

    @property
    def offered(self) -> bool:
        """Whether it runs without fetching anything."""
        return self.source == EMBEDDED or at_hand(self.source)


def embedded_features(images: "Sequence[Image]", models: ModelCache) -> "Tensor":
    """The judge's features of the square around what stands out, (n, 384), of unit length.

    Less their mean over the sample looks and compositions, so that pictures of unrelated things are near 0: a network
    of a small world sees something in common in all pictures.
    """
    import torch

    def mean() -> Any:
        from PIL import Image

        samples = load_samples()
        others = [Image.open(sample.file).convert("RGB") for sample in (*samples.looks, *samples.compositions)]
        return judged([_square(other) for other in others], models)["embed"].mean(dim=0)

    features = judged([_square(image) for image in images], models)["embed"]
    return torch.nn.functional.normalize(features - _VALUES.get("mean", mean), dim=1)


def _square(image: "Image") -> "Image":
    return cropped(image, suggest_crop(image), SIDE_PX)


def _cosine(one: "Tensor", other: "Tensor") -> "Tensor":
    return one @ other.T


METHODS = {
    method.name: method
    for method in (
        Method(
            name="dinov2",
            title="mean cosine to the photos, DINOv2",
            features=dino_features,
            similarity=_cosine,
            source=DINO,
        ),
        Method(
            name="starter",
            title="mean cosine to the photos, the starter's own features",
            features=embedded_features,
            similarity=_cosine,
        ),
        Method(
            name="face",
            title="1 less the mean distance of the face descriptors (dlib)",
            features=face.descriptors,
            similarity=face.similarity,
            worst=0.0,
        ),
    )
}
FEATURES, FACES = ("dinov2", "starter"), "face"


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What pictures are compared with: the photos' features, (n, width), and what the photos reach among themselves."""

    method: Method
    features: "Tensor"
    ceiling: float


def reference(
    photos: "Sequence[Image]", *, faces: bool = False, models: ModelCache | None = None, method: str | None = None
) -> Reference:
    """Photos, at least two, made ready to be compared with.

    Args:
        faces: the subject is a face, which has a descriptor of its own; the features serve where too few photos show
            one.
        method: the name of one of `METHODS`; without it, the best that runs without fetching anything.

    Raises: MissingModel when the method asked for is neither here nor within reach.
    """
    models = models or ModelCache()
    if faces and method is None:
        try:
            return _reference(METHODS[FACES], photos, models)
        except NothingDetected:
            pass
    usual = next(name for name in FEATURES if METHODS[name].offered)
    return _reference(METHODS[method or usual], photos, models)


def _reference(method: Method, photos: "Sequence[Image]", models: ModelCache) -> Reference:
    features = method.features(photos, models)
    count = len(features)
    if count < 2:
        raise NothingDetected("Fewer than two photos show the subject.", "Add photos of it.")
    among = method.similarity(features, features)
    return Reference(
        method=method,
        features=features,
        ceiling=float((among.sum() - among.trace()) / (count * (count - 1))),
    )


def identity(picture: "Image", photos: Reference, *, of: str = "", models: ModelCache | None = None) -> Score:
    """How much the subject of `picture` is that of the photos; 0 where a face was expected and there is none."""
    try:
        features = photos.method.features([picture], models or ModelCache())
        raw = float(photos.method.similarity(features, photos.features).mean())
        note = ""
    except NothingDetected as error:
        raw, note = 0.0, error.problem
    return Score(
        name="identity",
        title="Subject",
        of=of,
        value=clipped(raw),
        raw=raw,
        worst=photos.method.worst,
        method=photos.method.title,
        ceiling=photos.ceiling,
        note=note,
    )


def subject_similarity(
    pictures: "Sequence[Image]", photos: "Sequence[Image]", *, models: ModelCache | None = None
) -> float:
    """How alike the subject in `pictures` and in `photos` is, from 0 to 1: the mean over all pairs."""
    models = models or ModelCache()
    method = METHODS[next(name for name in FEATURES if METHODS[name].offered)]
    features = [method.features(images, models) for images in (pictures, photos)]
    return clipped(float(method.similarity(*features).mean()))


def subject_ceiling(
    photos: "Sequence[Image]", held_out: "Sequence[Image]", *, models: ModelCache | None = None
) -> float:
    """What real photos of the subject score: `photos` against `held_out` ones."""
    return subject_similarity(photos, held_out, models=models)
