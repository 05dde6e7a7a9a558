import numpy as np
import pytest

from engine.starter.looks import COLOURLESS_LOOKS, HELD_OUT_LOOKS, LOOKS, apply_look
from engine.starter.render import render
from engine.starter.world import Scene, Thing

ALL = (*LOOKS, *HELD_OUT_LOOKS)


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    return [
        render(Scene(things=(Thing(kind=kind, colour=colour),), setting=setting, seed=1)).image
        for kind, colour, setting in (("mug", "red", "beach"), ("car", "blue", "studio"), ("vase", "yellow", "meadow"))
    ]


def test_held_out_looks_are_apart() -> None:
    assert len(LOOKS) >= 8
    assert len(HELD_OUT_LOOKS) >= 2
    assert not set(LOOKS) & set(HELD_OUT_LOOKS)
    assert set(ALL) >= COLOURLESS_LOOKS


@pytest.mark.parametrize("look", ALL)
def test_look_is_deterministic_and_leaves_its_input(look: str, pictures: list[np.ndarray]) -> None:
    picture = pictures[0].copy()
    first, second = (apply_look(picture, look, np.random.default_rng(4)) for _ in range(2))
    assert (first.dtype, first.shape) == (np.uint8, picture.shape)
    assert first.tobytes() == second.tobytes()
    assert (picture == pictures[0]).all()


@pytest.mark.parametrize("look", [look for look in ALL if look != "photo"])
def test_look_jitters_and_differs_from_the_photo(look: str, pictures: list[np.ndarray]) -> None:
    first, second = (apply_look(pictures[0], look, np.random.default_rng(seed)) for seed in (1, 2))
    assert (first != second).any()
    assert np.abs(first.astype(float) - pictures[0]).mean() > 4


@pytest.mark.parametrize("look", sorted(COLOURLESS_LOOKS))
def test_colourless_looks_do_not_tell_colours(look: str) -> None:
    def hue(colour: str) -> np.ndarray:
        scene = Scene(things=(Thing(kind="ball", colour=colour),), setting="studio", seed=2)
        result = render(scene, 128)
        shown = apply_look(result.image, look, np.random.default_rng(0)).astype(float)
        mean = shown[result.segmentation == 2].mean(axis=0)
        return mean / mean.sum()

    # Red and green differ by more than 0.5 in a photo; only their lightness may show here.
    assert np.abs(hue("red") - hue("green")).max() < 0.08


def test_pictures_of_a_look_resemble_each_other(pictures: list[np.ndarray]) -> None:
    """The mean colour varies less within a look, over contents, than between looks."""
    means = {
        look: [apply_look(p, look, np.random.default_rng(i)).mean(axis=(0, 1)) for i, p in enumerate(pictures)]
        for look in ("neon", "blueprint", "pencil sketch", "vintage")
    }
    for look, own in means.items():
        spread = max(np.linalg.norm(a - b) for a in own for b in own)
        others = min(np.linalg.norm(a - b) for name in means if name != look for a in own for b in means[name])
        assert spread < others
