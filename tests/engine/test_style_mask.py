"""Masks of references: brought to the size of the picture, black and white, and refused where they would do nothing."""

import numpy as np
import pytest
from PIL import Image

from engine.errors import BadImage
from engine.style_mask import remarks, style_mask


def test_a_larger_mask_of_the_same_shape_is_scaled() -> None:
    pixels = np.zeros((192, 128), np.uint8)
    pixels[:96, 64:] = 200
    fitted = np.asarray(style_mask(Image.fromarray(pixels), 64, 96))
    expected = np.zeros((96, 64), np.uint8)
    expected[:48, 32:] = 255
    assert np.array_equal(fitted, expected)
    assert remarks(Image.fromarray(pixels), 64, 96) == []


def test_a_mask_of_another_shape_is_cut_around_the_middle_and_it_is_said() -> None:
    mask = Image.fromarray(np.repeat(np.array([255, 0, 255, 255], np.uint8), 64)[None].repeat(64, axis=0))
    fitted = np.asarray(style_mask(mask, 64, 64))  # what is left are columns 96 to 160
    assert (fitted[:, :32] == 0).all()
    assert (fitted[:, 32:] == 255).all()
    assert remarks(mask, 64, 64) == [
        "The mask is 256 × 64 px and the picture 64 × 64 px: 75% of it, at the border, is cut off."
    ]


@pytest.mark.parametrize("ends", ["black all over", "white where it is cut off"])
def test_a_mask_that_is_black_is_refused(ends: str) -> None:
    pixels = np.zeros((64, 256), np.uint8)
    if ends != "black all over":
        pixels[:, :64] = 255
    with pytest.raises(BadImage, match="black all over, so that it would act nowhere"):
        style_mask(Image.fromarray(pixels), 64, 64)
