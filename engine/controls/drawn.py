"""Maps that a person draws, or draws on: sheets to start from, and drawings put into the values that their kind has.

Nothing here knows of pages or brushes.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image

from engine.controls.ade20k import NAMES, PALETTE, classes_of, coloured
from engine.controls.ready import DRAWN
from engine.errors import BadImage, BadSettings

DRAWABLE = DRAWN | {"segmentation"}
EDITABLE = DRAWABLE | {"openpose"}
BINARY = frozenset({"canny", "lines", "scribble"})
"""The kinds whose lines are white, without any grey."""
LIGHT = 128
EMPTY_CLASS = NAMES.index("wall")
SHOWN_SHARE = 0.001
COMMON = (
    *("person", "wall", "floor", "ceiling", "windowpane", "door", "table", "chair", "sofa", "bed", "lamp", "painting"),
    *("sky", "building", "tree", "grass", "plant", "flower", "road", "sidewalk", "earth", "sand", "water", "mountain"),
    *("car", "animal", "bottle", "box", "food", "plate"),
)


class Area(NamedTuple):
    """A class of ADE20K: its name, and its colour as `#rrggbb`."""

    name: str
    colour: str


def cleaned(kind: str, image: Image.Image) -> Image.Image:
    """A drawing as a map of its kind: white lines on black, greys on black, or exactly the colours of the classes.

    Raises: BadSettings for a kind that is not drawn, BadImage for lines of which there is none.
    """
    if kind not in DRAWABLE:
        raise BadSettings(
            f"Maps of the kind {kind!r} are not drawn by hand.", f"Choose: {', '.join(sorted(DRAWABLE))}."
        )
    if kind == "segmentation":
        return coloured(classes_of(image)[0])
    grey = np.asarray(image.convert("L"))
    if kind in BINARY:
        grey = np.where(grey >= LIGHT, 255, 0).astype(np.uint8)
    if not grey.any():
        raise BadImage("Nothing is drawn on this map.", "Draw a line, or start from a picture.")
    return Image.fromarray(grey).convert("RGB")


def sheet(kind: str, size: tuple[int, int]) -> Image.Image:
    """An empty map of (width, height): black for lines and poses, all wall for areas."""
    colour = tuple(PALETTE[EMPTY_CLASS].tolist()) if kind == "segmentation" else (0, 0, 0)
    return Image.new("RGB", size, colour)


def areas(image: Image.Image) -> tuple[list[Area], list[Area]]:
    """The classes in a map, the largest first, and all classes: common ones, then the others by name."""
    counts = np.bincount(classes_of(image)[0].ravel(), minlength=len(NAMES))
    order = np.argsort(-counts, kind="stable")
    present = [_area(number) for number in order if counts[number] >= max(1, SHOWN_SHARE * counts.sum())]
    rest = sorted(set(NAMES) - set(COMMON))
    return present, [_area(NAMES.index(name)) for name in (*COMMON, *rest)]


def _area(number: int) -> Area:
    return Area(name=NAMES[number], colour="#{:02x}{:02x}{:02x}".format(*PALETTE[number].tolist()))
