"""The maps that ControlNets are trained on, against the truth that they show."""

import numpy as np
import pytest

from engine.controls.ade20k import PALETTE
from engine.starter import ade20k, control
from engine.starter.corpus import Corpus, relative_depth, scene
from engine.starter.render import render

INDEX = 10  # a box on the left and a vase on the right, on a beach


class OneScene(Corpus):
    """The truth of scene `INDEX`, as the corpus keeps it."""

    def __init__(self) -> None:
        rendered = render(scene(INDEX), 128)
        self.rendered = rendered
        self.segments = {INDEX: rendered.segmentation}  # type: ignore[assignment]
        self.depth = {INDEX: relative_depth(rendered.depth)}  # type: ignore[assignment]
        self.normals = {INDEX: np.round((rendered.normals + 1) * 127.5).astype(np.uint8)}  # type: ignore[assignment]


@pytest.fixture(scope="module")
def corpus() -> OneScene:
    return OneScene()


def test_relative_depth_is_that_of_the_inverse() -> None:
    assert relative_depth(np.array([[1.0, 2.0], [4.0, 5.0]])).tolist() == [[255, 96], [16, 0]]


def test_near_is_white(corpus: OneScene) -> None:
    shown = control.depth_map(corpus, INDEX, False, 128)
    assert shown.shape == (128, 128, 3)
    thing, sky = corpus.rendered.segmentation >= 2, corpus.rendered.segmentation == 0
    assert shown[thing].min() > shown[sky].max()
    assert np.array_equal(control.depth_map(corpus, INDEX, True, 128), shown[:, ::-1])


def test_normals_are_red_to_the_right_and_green_upwards(corpus: OneScene) -> None:
    normals, segmentation = corpus.rendered.normals, corpus.rendered.segmentation
    shown = control.normal_map(corpus, INDEX, False, 128)
    np.testing.assert_allclose(shown / 127.5 - 1, normals, atol=0.01)
    assert shown[segmentation == 1][:, 1].min() > 127  # the ground

    mirror = control.normal_map(corpus, INDEX, True, 128) / 127.5 - 1
    np.testing.assert_allclose(mirror[:, ::-1] * (-1, 1, 1), normals, atol=0.01)


def test_segments_have_the_colours_of_ade20k(corpus: OneScene) -> None:
    shown = control.segmentation_map(corpus, INDEX, False, 128)
    segmentation = corpus.rendered.segmentation
    for value, name in enumerate((ade20k.SKY, ade20k.SAND, ade20k.THINGS["box"], ade20k.THINGS["vase"])):
        assert (shown[segmentation == value] == PALETTE[name]).all()
    assert np.array_equal(control.segmentation_map(corpus, INDEX, True, 128), shown[:, ::-1])
