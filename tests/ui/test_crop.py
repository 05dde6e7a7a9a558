"""Crops as sliders and back, and as the window that a card shows."""

import pytest

from engine.settings import CropBox
from engine.workspace import Photo
from ui.crop import crop_box, dragged, sliders, window


def photo(crop: CropBox | None, width_px: int = 640, height_px: int = 480) -> Photo:
    return Photo(id="a", file="a.jpg", image="0" * 64, width_px=width_px, height_px=height_px, crop=crop)


@pytest.mark.parametrize(
    "crop",
    [
        CropBox(left_px=0, top_px=0, side_px=480),
        CropBox(left_px=160, top_px=0, side_px=480),
        CropBox(left_px=37, top_px=11, side_px=241),
        CropBox(left_px=540, top_px=380, side_px=100),
    ],
)
def test_sliders_and_back(crop: CropBox) -> None:
    assert crop_box(photo(crop), *sliders(photo(crop))) == crop


def test_without_a_crop_the_largest_square_in_the_middle_is_shown() -> None:
    assert sliders(photo(None)) == (100, 50, 0)
    assert window(photo(None)) == window(photo(CropBox(left_px=80, top_px=0, side_px=480)))


def test_any_position_of_the_sliders_is_inside_the_photo() -> None:
    for size in (10, 55, 100):
        for across in (0, 33, 100):
            for down in (0, 33, 100):
                crop = crop_box(photo(None), size, across, down)
                assert crop.left_px + crop.side_px <= 640
                assert crop.top_px + crop.side_px <= 480


@pytest.mark.parametrize(
    ("shares", "crop"),
    [
        ((0.25, 0.125, 0.5), CropBox(left_px=160, top_px=80, side_px=320)),
        ((0.9, 0.9, 0.5), CropBox(left_px=320, top_px=160, side_px=320)),
        ((-1.0, -1.0, 9.0), CropBox(left_px=0, top_px=0, side_px=480)),
    ],
)
def test_a_dragged_square_is_inside_the_photo(shares: tuple[float, float, float], crop: CropBox) -> None:
    assert dragged(photo(None), *shares) == crop
