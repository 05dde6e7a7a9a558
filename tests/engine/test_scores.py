"""Subject scores: exact where a closed form exists, and in the right order on the sample subjects."""

import pytest
from PIL import Image

from engine.families.starter import PRESET
from engine.samples import load_samples
from engine.scores import subject_ceiling, subject_similarity

SUBJECTS = ("teddy_bear", "fire_extinguisher", "stone_lantern")


def photos(name: str, held_out: bool = False) -> list[Image.Image]:
    subject = load_samples().subject(name)
    return [Image.open(file).convert("RGB") for file in (subject.held_out if held_out else subject.photos[:4])]


def test_a_picture_is_wholly_like_itself() -> None:
    picture = photos("teddy_bear")[:1]
    assert subject_similarity(picture, picture, starter=PRESET) == pytest.approx(1, abs=1e-5)


def test_order_of_the_photos_does_not_matter() -> None:
    some, others = photos("teddy_bear"), photos("stone_lantern")
    forwards = subject_similarity(some, others, starter=PRESET)
    assert subject_similarity(some[::-1], others[::-1], starter=PRESET) == pytest.approx(forwards, abs=1e-5)


@pytest.mark.parametrize("name", SUBJECTS)
def test_a_subject_is_most_like_itself(name: str) -> None:
    held_out = photos(name, held_out=True)
    own = subject_ceiling(photos(name), held_out, starter=PRESET)
    assert all(own > subject_similarity(photos(o), held_out, starter=PRESET) for o in SUBJECTS if o != name)
