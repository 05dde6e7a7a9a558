"""What is said of captions without the trigger word."""

import pytest

from engine.workspace import Dataset, Photo
from ui.tabs.caption import has_trigger, warning


def dataset(*captions: str) -> Dataset:
    photos = [
        Photo(id=str(n), file=f"{n}.jpg", image="0" * 64, width_px=64, height_px=64, crop=None, caption=caption)
        for n, caption in enumerate(captions)
    ]
    return Dataset(id="bear", name="Bear", created="", trigger="sks", photos=tuple(photos))


@pytest.mark.parametrize(
    ("caption", "found"), [("sks bear", True), ("a photo of SKS, red", True), ("asks for more", False), ("", False)]
)
def test_the_trigger_is_found_as_a_word(caption: str, found: bool) -> None:
    assert has_trigger(dataset(caption).photos[0], "sks") is found


def test_warnings_count_what_they_are_about() -> None:
    assert "2 captions lack the trigger word “sks”" in warning(dataset("a bear", "sks bear", "a toy", ""))
    assert "1 photos" not in warning(dataset("sks bear", ""))
    assert "One photo has no caption yet" in warning(dataset("sks bear", ""))
    assert warning(dataset("sks bear")) == ""
