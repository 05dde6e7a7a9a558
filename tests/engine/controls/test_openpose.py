import numpy as np
import pytest
from PIL import Image

from engine.controls import detect
from engine.controls.openpose import draw, keypoints
from engine.errors import NothingDetected
from engine.samples import SAMPLES_FOLDER
from tests.engine.controls.people import PERSON, exact_joints


def render(file: str) -> Image.Image:
    return Image.open(PERSON / "image" / file).convert("RGB")


def test_joints_are_where_the_renderer_put_them() -> None:
    errors_px = []
    for file in ("00.png", "04.png", "09.png", "16.png"):
        (person,) = keypoints(render(file))
        errors_px.append(np.linalg.norm(person[:, :2] - exact_joints()[file], axis=1))

    assert np.median(errors_px) < 6
    assert np.quantile(errors_px, 0.9) < 12


@pytest.mark.parametrize("side_px", [200, 1500])
def test_joints_scale_with_the_picture(side_px: int) -> None:
    (person,) = keypoints(render("04.png").resize((side_px, side_px)))

    errors = np.linalg.norm(person[:, :2] / side_px - exact_joints()["04.png"] / 512, axis=1)
    assert np.median(errors) < 0.015


def test_finds_everyone_also_beside_the_middle() -> None:
    both = Image.new("RGB", (1024, 512))
    both.paste(render("00.png"), (0, 0))
    both.paste(render("12.png"), (512, 0))

    people = sorted(keypoints(both), key=lambda person: person[0, 0])

    assert len(people) == 2
    for person, file, offset in zip(people, ("00.png", "12.png"), (0, 512), strict=True):
        errors_px = np.linalg.norm(person[:, :2] - exact_joints()[file] - [offset, 0], axis=1)
        assert np.median(errors_px) < 8


def test_drawing_has_openposes_colours_at_the_joints() -> None:
    """The shipped maps of the same joints have other strokes, but the same dots."""
    for file, joints in list(exact_joints().items())[:4]:
        drawn = np.asarray(draw([np.column_stack([joints, np.ones(18)])], (512, 512)))
        shipped = np.asarray(Image.open(PERSON / "openpose" / file).convert("RGB"))
        x, y = joints[8:14].T.astype(int)  # the legs, where no dot covers another
        np.testing.assert_array_equal(drawn[y, x], shipped[y, x])


def test_drawing_of_a_large_picture_is_that_of_a_small_one_enlarged() -> None:
    joints = np.column_stack([exact_joints()["00.png"], np.ones(18)])

    large = draw([joints * [3, 3, 1]], (1536, 1536))

    expected = draw([joints], (512, 512)).resize((1536, 1536), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(np.asarray(large), np.asarray(expected))
    assert np.asarray(draw([joints * [0.5, 0.5, 1]], (256, 256)))[:, :, 0].max() == 255  # strokes are not thinned


def test_unseen_joints_are_left_out() -> None:
    joints = np.column_stack([exact_joints()["00.png"], np.ones(18)])
    joints[3, 2] = 0.2  # the right elbow: the wrist goes with it
    missing = np.asarray(draw([joints], (512, 512)))
    for joint in (3, 4):
        x, y = joints[joint, :2].astype(int)
        assert not missing[y - 3 : y + 4, x - 3 : x + 4].any()


@pytest.mark.parametrize(
    ("name", "by_eye"),
    [
        ("astronaut.png", [(219, 127), (117, 210), (303, 245)]),
        ("grace_hopper.jpg", [(277, 228), (95, 400), (440, 405)]),
    ],
)
def test_real_people_are_found(name: str, by_eye: list[tuple[int, int]]) -> None:
    """Nose and shoulders are where the eye sees them, to a tenth of the picture."""
    image = Image.open(SAMPLES_FOLDER / "compositions" / name)

    (person,) = keypoints(image)

    assert np.abs(person[[0, 2, 5], :2] - by_eye).max() < 50
    assert detect("openpose", image).size == image.size


@pytest.mark.parametrize("name", ["coffee.png", "chelsea.png", "rocket.jpg"])
def test_no_person_is_said_so(name: str) -> None:
    with pytest.raises(NothingDetected, match="No person was found"):
        detect("openpose", Image.open(SAMPLES_FOLDER / "compositions" / name))
