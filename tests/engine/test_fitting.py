"""What is cut off and what is white, against closed forms."""

import numpy as np
import pytest
from PIL import Image

from engine.fitting import binary, cut_off


@pytest.mark.parametrize(
    ("size", "target", "share"),
    [((200, 100), (64, 64), 0.5), ((100, 100), (256, 256), 0.0), ((300, 400), (100, 100), 0.25)],
)
def test_what_is_cut_off_is_what_lies_outside_the_shape(
    size: tuple[int, int], target: tuple[int, int], share: float
) -> None:
    assert cut_off(Image.new("RGB", size), *target) == pytest.approx(share)


def test_a_mask_is_black_or_white() -> None:
    grey = Image.fromarray(np.array([[0, 127, 128, 255]], np.uint8))
    assert np.asarray(binary(grey)).tolist() == [[0, 0, 255, 255]]
