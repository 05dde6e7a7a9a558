"""The arithmetic of the figures, on verdicts made by hand."""

import pytest

from engine.starter.judge import Verdict, accuracy
from engine.starter.world import Scene, Thing


def thing(kind: str, colour: str, side: str) -> Thing:
    return Thing(kind=kind, colour=colour, pattern="plain", side=side)  # type: ignore[arg-type]


TWO = Scene(things=(thing("mug", "red", "left"), thing("car", "blue", "right")), setting="beach", seed=0)
ONE = Scene(things=(thing("hat", "pink", "centre"),), setting="snow", seed=0)


def verdict(kinds: tuple[str, str], colours: tuple[str, str], setting: str, look: str) -> Verdict:
    return Verdict(kinds=kinds, colours=colours, setting=setting, look=look)


def test_swapped_things_count_as_seen_but_not_in_place() -> None:
    seen = verdict(("car", "mug"), ("blue", "red"), "beach", "photo")
    scores = accuracy([seen], [(TWO, "photo")])
    assert scores == {"object": 1, "colour": 1, "setting": 1, "look": 1, "left_right": 0}


def test_colour_is_asked_only_where_the_look_shows_it() -> None:
    sketch = verdict(("hat", "hat"), ("black", "black"), "night", "pencil sketch")
    photo = verdict(("hat", "hat"), ("pink", "pink"), "snow", "photo")
    scores = accuracy([sketch, photo], [(ONE, "pencil sketch"), (ONE, "photo")])
    assert scores["colour"] == 1
    assert scores["setting"] == pytest.approx(0.5)


def test_half_of_two_things() -> None:
    seen = verdict(("mug", "mug"), ("red", "red"), "beach", "photo")
    scores = accuracy([seen], [(TWO, "photo")])
    assert scores["object"] == pytest.approx(0.5)
    assert scores["left_right"] == 0
