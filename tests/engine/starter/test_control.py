"""The maps that ControlNets are trained on, against the truth that they show."""

import cv2
import numpy as np
import pytest
import torch

from engine.controls.ade20k import PALETTE
from engine.settings import ControlName
from engine.starter import ade20k, control
from engine.starter.corpus import LOOKS_PER_SCENE, Corpus, looks_of, picture, relative_depth, scene
from engine.starter.render import joints_of, render
from engine.starter.world import PERSON

INDEX = 10  # a box on the left and a vase on the right, on a beach
SCENES = 60


class OneScene(Corpus):
    """The truth of scene `INDEX`, as the corpus keeps it."""

    def __init__(self) -> None:
        rendered = render(scene(INDEX), 128)
        self.rendered = rendered
        self.segments = {INDEX: rendered.segmentation}  # type: ignore[assignment]
        self.depth = {INDEX: relative_depth(rendered.depth)}  # type: ignore[assignment]
        self.normals = {INDEX: np.round((rendered.normals + 1) * 127.5).astype(np.uint8)}  # type: ignore[assignment]

    def __len__(self) -> int:
        return LOOKS_PER_SCENE * SCENES

    def __getitem__(self, row: int) -> np.ndarray:
        assert row == LOOKS_PER_SCENE * INDEX  # the photo
        return self.rendered.image


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


@pytest.mark.parametrize("kind", ["softedge", "scribble", "lineart"])
def test_strokes_lie_where_the_picture_changes(corpus: OneScene, kind: ControlName) -> None:
    shown = control.TAUGHT[kind].map_of(corpus, INDEX, False, 128)
    assert shown.shape == (128, 128, 3)
    outline = cv2.morphologyEx(
        (corpus.rendered.segmentation >= 2).astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((5, 5), np.uint8)
    ).astype(bool)
    assert shown[outline].mean() > 3 * shown[~outline].mean()


def test_strokes_are_black_where_nothing_is_seen() -> None:
    class Grey(Corpus):
        def __init__(self) -> None: ...

        def __getitem__(self, row: int) -> np.ndarray:
            return np.full((128, 128, 3), 99, np.uint8)

    assert not control.TAUGHT["scribble"].map_of(Grey(), 0, True, 128).any()


def test_kinds_come_by_their_shares_and_poses_from_scenes_with_people(corpus: OneScene) -> None:
    assert sum(taught.share for taught in control.TAUGHT.values()) == pytest.approx(1)
    chosen = control.examples(corpus, 4000, torch.Generator().manual_seed(0))
    for kind, taught in control.TAUGHT.items():
        share = sum(example.kind == kind for example in chosen) / len(chosen)
        assert share == pytest.approx(taught.share, abs=4 * np.sqrt(taught.share / len(chosen)))
    assert {example.scene for example in chosen if example.kind == "depth"} == set(range(SCENES))
    people = {i for i in range(SCENES) if any(thing.kind == PERSON for thing in scene(i).things)}
    assert {example.scene for example in chosen if example.kind == "openpose"} == people


def test_heads_and_hands_lie_around_their_joints() -> None:
    index = next(i for i in range(SCENES) if any(thing.kind == PERSON for thing in scene(i).things))
    joints = joints_of(scene(index), 32)
    assert joints is not None
    near = control.head_cells(index, False, 32)
    for ear_or_wrist in (16, 17, 4, 7):
        x, y, _ = joints[ear_or_wrist]
        assert near[int(y), int(x)]
    for hip_knee_or_ankle in range(8, 14):
        x, y, _ = joints[hip_knee_or_ankle]
        wrists = joints[[4, 7], :2]
        assert near[int(y), int(x)] == (np.hypot(*(wrists - (int(x) + 0.5, int(y) + 0.5)).T) < 0.04 * 32).any()
    assert torch.equal(control.head_cells(index, True, 32), near.flip(1))
    assert not control.head_cells(INDEX, False, 32).any()  # nobody


def test_an_example_has_a_row_of_its_scene_for_every_look() -> None:
    for flipped in (False, True):
        rows = control.Example(kind="depth", scene=7, flipped=flipped).rows
        shown = [picture(row // 2, flipped=bool(row % 2)) for row in rows]
        assert {(s.scene, s.flipped) for s in shown} == {(scene(7), flipped)}
        assert [s.look for s in shown] == list(looks_of(7))


def test_a_map_serves_several_pictures_as_if_it_were_given_for_each() -> None:
    torch.manual_seed(0)
    embedding, maps = torch.nn.Conv2d(3, 4, 3), torch.rand(2, 3, 8, 8)
    with control.each_for(embedding, 3):
        served = embedding(maps)
    torch.testing.assert_close(served, embedding(maps[[0, 0, 0, 1, 1, 1]]))
    assert len(embedding(maps)) == 2
