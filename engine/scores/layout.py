"""Layout: the map taken again from the picture, compared with the one that was asked for, by the kind's own measure.

Nothing here knows of ControlNets or workspaces.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from engine.cache import ModelCache
from engine.controls import KINDS, detect
from engine.controls.fidelity import MEASURES
from engine.errors import NothingDetected
from engine.scores.score import Score, clipped

if TYPE_CHECKING:
    from PIL.Image import Image

CHANCE = {"depth": 0.0, "normal": 70.7}
"""What a measure gives for maps that have nothing to do with each other, where that is not its worst: no correlation,
and the median angle between two directions drawn evenly from the half sphere that faces the camera."""


CEILING = 1.0
"""What the photo that a map was taken from keeps of it, as the same detector gives the same map. The sample photos keep
as much of their exact poses; `python -m tests.benchmarks.scores` says it of every kind."""
MIN_SIDE_PX = {"openpose": 512}
"""The shorter side that a map is compared at, where the picture is smaller: the joints of smaller drawings run into
each other."""


def size_to_compare(kind: str, width: int, height: int) -> tuple[int, int]:
    """Width and height that maps of a picture of this size are compared at."""
    scale = max(1.0, MIN_SIDE_PX.get(kind, 1) / min(width, height))
    return round(width * scale), round(height * scale)


def layout(
    picture: "Image",
    asked: "Image",
    kind: str,
    *,
    detector: str | None = None,
    options: Mapping[str, float] | None = None,
    models: ModelCache | None = None,
) -> Score:
    """How well `picture` keeps the map `asked` for: 0 for no better than chance, 1 for all of it.

    `detector` and `options` are what the map was taken with, else the kind's usual ones.
    Both are compared at the size of the map. A picture in which nothing of the kind is found keeps nothing. Raises:
    MissingModel; NothingDetected when nothing of the kind is in the map itself.
    """
    measure = MEASURES[kind]
    try:
        found = detect(kind, picture.convert("RGB").resize(asked.size), options, detector=detector, models=models)
    except NothingDetected as error:
        raw, note = measure.worst, error.problem
    else:
        raw, note = measure.between(asked, found), ""
    chance = CHANCE.get(kind, measure.worst)
    return Score(
        name="layout",
        title=measure.title,
        of=KINDS[kind].title,
        value=clipped((raw - chance) / (measure.best - chance)),
        raw=raw,
        worst=measure.worst,
        best=measure.best,
        method=measure.method,
        ceiling=CEILING,
        note=note,
    )
