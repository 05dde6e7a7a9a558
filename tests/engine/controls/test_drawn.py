"""Maps that were drawn by hand hold only values of their kind, and the names of the areas are ADE20K's."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from engine.controls import drawn, recognise
from engine.controls.ade20k import NAMES, PALETTE, coloured
from engine.errors import BadImage, BadSettings
from engine.starter import ade20k as starter


def strokes(colour: str, ground: str = "black") -> Image.Image:
    """Lines with the softened borders that a canvas draws."""
    large = Image.new("RGB", (512, 512), ground)
    ImageDraw.Draw(large).line([(40, 40), (300, 420), (480, 90)], fill=colour, width=11)
    return large.resize((128, 128), Image.Resampling.LANCZOS)


@pytest.mark.parametrize("kind", ["canny", "lines", "scribble"])
def test_lines_are_black_and_white(kind: str) -> None:
    soft = strokes("white")
    assert len(np.unique(np.asarray(soft))) > 2
    cleaned = np.asarray(drawn.cleaned(kind, soft))
    assert np.array_equal(cleaned, np.where(np.asarray(soft.convert("L"))[:, :, None] >= 128, 255, 0).repeat(3, axis=2))


def test_soft_lines_keep_their_greys() -> None:
    soft = strokes("#909090")
    assert np.array_equal(np.asarray(drawn.cleaned("softedge", soft).convert("L")), np.asarray(soft.convert("L")))


def test_areas_have_the_colours_of_classes_only() -> None:
    sky, grass = (PALETTE[NAMES.index(name)] for name in ("sky", "grass"))
    mixed = strokes("rgb({},{},{})".format(*grass), ground="rgb({},{},{})".format(*sky))
    known = {tuple(colour) for colour in PALETTE.tolist()}
    colours = {tuple(colour) for colour in np.asarray(drawn.cleaned("segmentation", mixed)).reshape(-1, 3).tolist()}
    assert {tuple(sky.tolist()), tuple(grass.tolist())} <= colours <= known
    pixels = np.asarray(mixed)
    exact = (pixels == sky).all(axis=2) | (pixels == grass).all(axis=2)
    assert np.array_equal(np.asarray(drawn.cleaned("segmentation", mixed))[exact], pixels[exact])


def test_what_is_not_drawn_is_refused() -> None:
    with pytest.raises(BadImage, match="Nothing is drawn"):
        drawn.cleaned("scribble", Image.new("RGB", (64, 64)))
    with pytest.raises(BadSettings, match="'depth' are not drawn by hand"):
        drawn.cleaned("depth", strokes("white"))


def test_the_names_are_those_of_the_classes() -> None:
    """The starter's table was made from the data set's list, thing by thing."""
    assert len(NAMES) == len(PALETTE) == len(set(NAMES))
    same = ("person", "car", "chair", "sofa", "lamp", "box", "bottle", "ball", "vase")
    assert [NAMES.index(name) for name in same] == [starter.THINGS[name] for name in same]
    places = {"wall": starter.WALL, "sky": starter.SKY, "floor": starter.FLOOR, "sand": starter.SAND}
    assert {name: NAMES.index(name) for name in places} == places


def test_the_areas_of_a_map_come_largest_first() -> None:
    classes = np.full((100, 100), NAMES.index("sky"))
    classes[60:] = NAMES.index("sea")
    classes[0, :5] = NAMES.index("boat")  # less than a thousandth
    present, every = drawn.areas(coloured(classes))
    assert present == [drawn.Area("sky", "#06e6e6"), drawn.Area("sea", "#0907e6")]
    assert sorted(area.name for area in every) == sorted(NAMES)


@pytest.mark.parametrize("kind", ["scribble", "segmentation", "openpose"])
def test_an_empty_sheet_is_no_map_of_another_kind(kind: str) -> None:
    sheet = drawn.sheet(kind, (96, 64))
    assert sheet.size == (96, 64)
    assert recognise(sheet) is None
