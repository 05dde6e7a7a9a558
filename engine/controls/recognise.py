"""What kind of map a picture is, if it is one: by its colours, its smoothness and the width of what is light.

Every test is a robust share of the pixels. The thresholds stand well between what detectors draw, the exact maps of the
samples, and photos, greyed ones included. Nothing here knows of detectors.
"""

from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from engine.controls.ade20k import classes_of

SIDE_PX = 512
LINES = "canny"
"""Stands for every kind with light lines on black: which of them drew a map cannot be told."""

LIGHT, DARK = 80, 40
STROKE_PX = 25  # wider than any stroke
COLOUR = 12  # a pixel whose channels differ by more has a colour
HUE_STEP = 20.0  # OpenPose's eighteen colours go round the circle in equal steps


class Recognised(NamedTuple):
    """The kind of a map. `inverted`: its lines are dark on white."""

    kind: str
    inverted: bool = False


def recognise(image: Image.Image) -> Recognised | None:
    """What a picture is a map of; None for a photo, and for what cannot be told."""
    pixels = _small(image)
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    if (np.ptp(pixels, axis=2) <= COLOUR).mean() > 0.995:
        if _are_lines(grey):
            return Recognised(LINES)
        if _are_lines(255 - grey):
            return Recognised(LINES, inverted=True)
        return Recognised("depth") if _is_depth(grey) else None
    for kind, holds in (("openpose", _is_openpose), ("normal", _are_normals), ("segmentation", _are_classes)):
        if holds(pixels):
            return Recognised(kind)
    return None


def _small(image: Image.Image) -> np.ndarray:
    """At most `SIDE_PX` wide and high, every colour one of the picture's own."""
    small = image.convert("RGB")
    scale = SIDE_PX / max(small.size)
    if scale < 1:
        size = max(1, round(small.width * scale)), max(1, round(small.height * scale))
        small = small.resize(size, Image.Resampling.NEAREST)
    return np.asarray(small)


def _are_lines(grey: np.ndarray) -> bool:
    """Dark, and what is light is thin: little is left of it where a disc as wide as a stroke must fit in."""
    light = (grey > LIGHT).astype(np.uint8)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (STROKE_PX, STROKE_PX))
    wide = cv2.morphologyEx(light, cv2.MORPH_OPEN, disc)
    return 0.0003 < light.mean() < 0.55 and (grey < DARK).mean() > 0.12 and wide.sum() < 0.35 * light.sum()


def _is_depth(grey: np.ndarray) -> bool:
    """From black to nearly white, in many steps, and smooth wherever it is not flat: photos have grain and texture."""
    slope = np.abs(np.diff(grey[:, :-1].astype(int), axis=0)) + np.abs(np.diff(grey[:-1].astype(int), axis=1))
    bend = np.abs(cv2.Laplacian(grey, cv2.CV_32F))[:-1, :-1]
    levels = (np.bincount(grey.ravel(), minlength=256) > 0.0002 * grey.size).sum()
    uneven = bend[slope > 0]
    return levels >= 24 and np.quantile(grey, 0.02) <= 16 and grey.max() > 200 and np.quantile(uneven, 0.75) <= 6


def _is_openpose(pixels: np.ndarray) -> bool:
    """Black, with pure colours of the skeleton's own hues, several of them."""
    hue, _, value = np.moveaxis(cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV_FULL).astype(np.float32), 2, 0)
    drawn = value > DARK
    pure = drawn & (pixels.min(axis=2) < 0.12 * value + 6)
    turn = hue * (360 / 255) / HUE_STEP
    limbs = pure & (np.abs(turn - np.round(turn)) < 0.15)
    hues = np.unique(np.round(turn[limbs]) % 18)
    return drawn.mean() < 0.3 and len(hues) >= 4 and limbs.sum() > 0.6 * drawn.sum()


def _are_normals(pixels: np.ndarray) -> bool:
    """Unit vectors that face the camera, and not all the same way."""
    x, y, z = np.moveaxis(pixels / 127.5 - 1, 2, 0)
    unit = np.abs(np.sqrt(x**2 + y**2 + z**2) - 1) < 0.06
    spread = max(np.ptp(np.quantile(axis, (0.02, 0.98))) for axis in (x, y))
    return unit.mean() > 0.85 and (z > -0.08).mean() > 0.97 and spread > 0.4


def _are_classes(pixels: np.ndarray) -> bool:
    """Flat areas in ADE20K's colours, at least two of them larger than a hundredth."""
    alike = np.abs(np.diff(pixels.astype(np.int16), axis=1)).max(axis=2) <= 6
    if alike.mean() < 0.8:
        return False
    classes, distance = classes_of(Image.fromarray(pixels))
    known = distance <= 6
    large = np.bincount(classes[known], minlength=2) > 0.01 * known.size
    return known.mean() > 0.9 and large.sum() >= 2
