import numpy as np
import pytest
from PIL import Image

from engine.controls.faces import find_faces
from engine.samples import SAMPLES_FOLDER


def composition(name: str) -> Image.Image:
    return Image.open(SAMPLES_FOLDER / "compositions" / name).convert("RGB")


@pytest.mark.parametrize(
    ("name", "nose", "chin_y"), [("astronaut.png", (219, 127), 170), ("grace_hopper.jpg", (277, 228), 322)]
)
def test_one_face_around_the_nose(name: str, nose: tuple[int, int], chin_y: int) -> None:
    (face,) = find_faces(composition(name))

    assert face.left < nose[0] < face.right
    assert face.top < nose[1] < face.bottom
    assert abs(face.bottom - chin_y) < 25
    assert 0.5 < (face.right - face.left) / (face.bottom - face.top) < 2


def test_two_faces_in_a_wide_picture() -> None:
    astronaut, admiral = composition("astronaut.png"), composition("grace_hopper.jpg")
    both = Image.new("RGB", (1024, 600))
    both.paste(astronaut, (0, 0))
    both.paste(admiral, (512, 0))

    centres = sorted((face.left + face.right) / 2 for face in find_faces(both))

    np.testing.assert_allclose(centres, (219, 512 + 272), atol=30)


@pytest.mark.parametrize("name", ["coffee.png", "chelsea.png", "rocket.jpg"])
def test_no_face_in_things_and_animals(name: str) -> None:
    assert find_faces(composition(name)) == []


def test_people_have_faces_and_subjects_of_product_photos_have_none() -> None:
    def faces(subject: str) -> list[int]:
        pictures = sorted((SAMPLES_FOLDER / "subjects" / subject / "image").glob("*.png"))[::4]
        return [len(find_faces(Image.open(picture))) for picture in pictures]

    assert faces("person") == [1] * 5
    assert faces("teddy_bear") == faces("stone_lantern") == [0] * 5
