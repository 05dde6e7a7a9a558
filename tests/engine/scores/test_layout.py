"""Layout: a picture keeps the map that was taken from it, and loses what is not in it."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from engine.controls import detect
from engine.errors import NothingDetected
from engine.samples import SAMPLES_FOLDER
from engine.scores.layout import layout, size_to_compare

PERSON = SAMPLES_FOLDER / "subjects" / "person"


@pytest.fixture
def squares() -> Image.Image:
    picture = Image.new("RGB", (128, 128), "white")
    ImageDraw.Draw(picture).rectangle((30, 30, 90, 90), fill="black")
    return picture


def test_a_picture_keeps_its_own_edges_to_the_last_pixel(squares: Image.Image) -> None:
    score = layout(squares, detect("canny", squares), "canny")
    assert (score.value, score.raw, score.ceiling) == (1, 1, 1)
    assert score.of == "Edges"


def test_half_of_the_edges_is_two_thirds_by_f1(squares: Image.Image) -> None:
    """All that is found was asked for, but only half of what was asked for is found."""
    twice = np.zeros((128, 256), np.uint8)
    twice[:, :128] = twice[:, 128:] = np.asarray(detect("canny", squares).convert("L"))
    one = Image.new("RGB", (256, 128), "white")
    one.paste(squares, (0, 0))
    assert layout(one, Image.fromarray(twice), "canny").value == pytest.approx(2 / 3, abs=0.01)


def test_a_picture_without_anyone_keeps_no_pose(squares: Image.Image) -> None:
    asked = Image.open(PERSON / "openpose" / "00.png").convert("RGB")
    score = layout(squares, asked, "openpose")
    assert score.value == 0
    assert "No person" in score.note


def test_the_pose_of_a_render_is_kept_by_its_picture() -> None:
    asked = Image.open(PERSON / "openpose" / "00.png").convert("RGB")
    assert layout(Image.open(PERSON / "image" / "00.png"), asked, "openpose").value > 0.9


def test_a_pose_map_without_anyone_cannot_be_kept(squares: Image.Image) -> None:
    with pytest.raises(NothingDetected, match="Nobody"):
        layout(Image.open(PERSON / "image" / "00.png"), Image.new("RGB", (512, 512)), "openpose")


def test_poses_are_compared_where_their_joints_are_apart() -> None:
    assert size_to_compare("openpose", 256, 384) == (512, 768)
    assert size_to_compare("openpose", 1024, 1024) == (1024, 1024)
    assert size_to_compare("canny", 256, 384) == (256, 384)
