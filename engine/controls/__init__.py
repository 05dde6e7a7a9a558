"""Control kinds: what decides where things go in a picture, and the detectors that take such maps from photos.

A new kind is one entry of `KINDS` and one of `_DETECTORS`. Nothing here knows of ControlNets or workspaces.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from engine.errors import BadSettings, NothingDetected


@dataclass(frozen=True, kw_only=True)
class Option:
    """A number that a detector takes, as a slider from `low` to `high`."""

    name: str
    label: str
    low: float
    high: float
    default: float
    step: float


@dataclass(frozen=True, kw_only=True)
class ControlKind:
    """`detectors` are the names that `detect` takes, the usual one first."""

    name: str
    title: str
    good_for: str
    detectors: tuple[str, ...]
    options: tuple[Option, ...]


KINDS = {
    kind.name: kind
    for kind in (
        ControlKind(
            name="canny",
            title="Edges",
            good_for="The exact outline of a product or a scene, with its lettering and fine detail.",
            detectors=("canny",),
            options=(
                Option(name="low_threshold", label="Continue edges above", low=1, high=255, default=100, step=1),
                Option(name="high_threshold", label="Start edges above", low=1, high=255, default=200, step=1),
            ),
        ),
        ControlKind(
            name="openpose",
            title="Pose",
            good_for="How a person stands, without their clothes, shape or face.",
            detectors=("blazepose",),
            options=(
                Option(
                    name="min_confidence", label="Show joints seen at least", low=0.1, high=0.9, default=0.5, step=0.05
                ),
            ),
        ),
    )
}


def detect(
    kind: str, image: Image.Image, options: Mapping[str, float] | None = None, *, detector: str | None = None
) -> Image.Image:
    """The control map of `image`: RGB, of the same size.

    Raises: BadSettings for a kind, option or detector that does not exist, NothingDetected when the map would be empty.
    """
    if kind not in KINDS:
        raise BadSettings(f"Maps of the kind {kind!r} cannot be taken here.", f"Choose one of: {', '.join(KINDS)}.")
    detectors = KINDS[kind].detectors
    if detector is not None and detector not in detectors:
        raise BadSettings(f"There is no detector {detector!r} for {kind}.", f"Choose one of: {', '.join(detectors)}.")
    values = _checked_options(KINDS[kind], options or {})
    return _DETECTORS[detector or detectors[0]](image.convert("RGB"), **values)


def _checked_options(kind: ControlKind, given: Mapping[str, float]) -> dict[str, float]:
    known = {option.name: option for option in kind.options}
    for name, value in given.items():
        if name not in known:
            raise BadSettings(f"{kind.title} has no option {name!r}.", f"Choose one of: {', '.join(known)}.")
        option = known[name]
        if not option.low <= value <= option.high:
            raise BadSettings(
                f"{option.label!r} is {value:g}.", f"Choose a value from {option.low:g} to {option.high:g}."
            )
    return {name: given.get(name, option.default) for name, option in known.items()}


def _canny(image: Image.Image, *, low_threshold: float, high_threshold: float) -> Image.Image:
    """controlnet_aux works at multiples of 64 px: the picture is padded to one, so that not a pixel is resampled."""
    from controlnet_aux.canny import CannyDetector

    height_px, width_px = image.height, image.width
    padded = np.pad(np.asarray(image), ((0, -height_px % 64), (0, -width_px % 64), (0, 0)), mode="edge")
    shorter_px = min(padded.shape[:2])
    edges = CannyDetector()(
        padded, int(low_threshold), int(high_threshold), detect_resolution=shorter_px, image_resolution=shorter_px
    )
    edge_map = Image.fromarray(np.asarray(edges)[:height_px, :width_px])
    if edge_map.getbbox() is None:
        raise NothingDetected(
            "No edges were found in this picture.", "Lower both thresholds, or use a clearer picture."
        )
    return edge_map


def _openpose(image: Image.Image, *, min_confidence: float) -> Image.Image:
    from engine.controls import openpose

    return openpose.detect(image, min_confidence=min_confidence)


_DETECTORS: dict[str, Callable[..., Image.Image]] = {"canny": _canny, "blazepose": _openpose}
