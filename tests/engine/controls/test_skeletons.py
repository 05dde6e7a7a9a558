"""People from outside are checked, and those in a drawn map are read back from it."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.controls import openpose, recognise
from engine.controls.skeletons import COLOURS, JOINTS, LIMBS, as_values, people_of, read, standing
from engine.errors import BadSettings
from tests.engine.controls.people import PERSON, exact_joints

SIZE = (512, 384)


def test_someone_standing_is_whole_and_inside() -> None:
    for size in (SIZE, (256, 768)):
        person = standing(size)
        assert person.shape == (18, 3)
        assert ((person[:, :2] > 0) & (person[:, :2] < size)).all()
        recognised = recognise(openpose.draw([person], size))
        assert recognised is not None
        assert recognised.kind == "openpose"


def test_colours_and_limbs_are_those_of_the_drawing() -> None:
    """controlnet_aux draws each joint in full colour, and each limb in three fifths of one."""
    person = standing((512, 512))
    drawn = np.asarray(openpose.draw([person], (512, 512)))
    for joint in (4, 7, 10, 13):  # wrists and ankles: nothing covers them
        x, y = person[joint, :2].astype(int)
        assert "#{:02x}{:02x}{:02x}".format(*drawn[y, x].tolist()) == COLOURS[joint]
    for number in (3, 5, 8, 11):
        x, y = person[list(LIMBS[number]), :2].mean(axis=0).astype(int)
        colour = [int(COLOURS[number][i : i + 2], 16) for i in (1, 3, 5)]
        assert drawn[y, x].tolist() == [int(0.6 * c) for c in colour]


@pytest.mark.parametrize("size", [(512, 512), (320, 256), (900, 700)])
def test_what_was_drawn_is_read_back(size: tuple[int, int]) -> None:
    one = standing(size, share=0.7)
    other = one + np.array([0.3 * size[0], 0.05 * size[1], 0])
    one -= np.array([0.2 * size[0], 0, 0])
    other[[4, 7], 2] = 0  # without wrists
    found = sorted(read(openpose.draw([one, other], size)), key=lambda person: person[1, 0])
    assert len(found) == 2
    scale = max(1, min(size) / openpose.CANVAS_SIDE_PX)
    for person, expected in zip(found, (one, other), strict=True):
        assert np.array_equal(person[:, 2], expected[:, 2])
        seen = expected[:, 2] > 0
        assert np.abs((person - expected)[seen, :2]).max() <= 4 * scale


def test_the_samples_maps_are_read_to_their_joints() -> None:
    """Drawn by the renderer, from joints that it knows exactly."""
    for name, joints in exact_joints().items():
        [person] = read(Image.open(PERSON / "openpose" / name))
        seen = person[:, 2] > 0
        assert seen.sum() >= 16
        assert np.abs(person[seen, :2] - joints[seen]).max() <= 5


def test_a_photo_and_an_empty_map_hold_nobody() -> None:
    assert read(Image.new("RGB", (128, 128))) == []


def test_plain_lists_and_back() -> None:
    [person] = people_of(as_values([standing(SIZE)]), SIZE)
    assert np.abs(person - standing(SIZE)).max() <= 0.005


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ("people", "no list of people"),
        ([[[1, 2, 1]] * 17], "no list of people"),
        ([[[1, 2]] * 18], "no list of people"),
        ([[[1, "2", 1]] * 18], "no list of people"),
        ([[[1, float("nan"), 1]] * 18], "no list of people"),
        ([[[1, True, 1]] * 18], "no list of people"),
        ([[[1, 2, 1.5]] * 18], "no list of people"),
        ([[[1, 2, 1]] * 18] * 21, "There are 21 people"),
        ([[[1, 2, 1]] * 4 + [[1e9, 2, 1]] + [[1, 2, 1]] * 13], "The right wrist lies far outside"),
    ],
)
def test_what_is_no_person_is_refused(values: Any, problem: str) -> None:
    with pytest.raises(BadSettings, match=problem):
        people_of(values, SIZE)


def test_a_joint_that_is_not_there_may_be_anywhere() -> None:
    [person] = people_of([[[1, 2, 1]] * 17 + [[1e9, 2, 0]]], SIZE)
    assert person[JOINTS.index("left ear"), 2] == 0
