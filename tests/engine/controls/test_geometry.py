"""Depth and normals: planes in closed form, and the samples, whose depth and normals the renderer knew."""

import numpy as np
import pytest
from PIL import Image

from engine.controls import geometry
from engine.controls.fidelity import normal_median_deg
from engine.samples import SAMPLES_FOLDER

SIZE = (90, 120)  # height, width


def inverse_depth_of_plane(a: float, b: float, c: float) -> np.ndarray:
    """w = a x + b y + c in focal lengths from the middle, as the relative depth that `normals_from_depth` takes."""
    height, width = SIZE
    focal_px = geometry.FOCAL_LENGTH * max(SIZE)
    y, x = np.mgrid[:height, :width]
    inverse = a * (x - (width - 1) / 2) / focal_px + b * (y - (height - 1) / 2) / focal_px + c
    return (inverse - geometry.FARTHEST) / (1 - geometry.FARTHEST)


@pytest.mark.parametrize(("a", "b", "c"), [(0, 0, 0.8), (0.4, 0, 0.8), (0, 0.6, 0.7), (-0.3, 0.2, 0.9)])
def test_a_plane_has_one_normal(a: float, b: float, c: float) -> None:
    normals = geometry.normals_from_depth(inverse_depth_of_plane(a, b, c))
    expected = np.array([-a, b, c]) / np.linalg.norm([a, b, c])
    inside = normals[5:-5, 5:-5]
    np.testing.assert_allclose(inside, np.broadcast_to(expected, inside.shape), atol=1e-3)


def test_exact_depth_gives_nearly_the_exact_normals() -> None:
    """8.3 degrees in the median over the samples, whose scale is not that of any one of them."""
    errors_deg = []
    for subject in ("teddy_bear", "fire_extinguisher", "stone_lantern", "person"):
        for view in ("00", "07", "13"):
            folder = SAMPLES_FOLDER / "subjects" / subject
            depth = np.asarray(Image.open(folder / "depth" / f"{view}.png"), np.float32) / 255
            mask = np.asarray(Image.open(folder / "mask" / f"{view}.png")) > 127
            taken = geometry.normal_map(geometry.normals_from_depth(depth))
            errors_deg.append(normal_median_deg(Image.open(folder / "normal" / f"{view}.png"), taken, mask))
    assert np.mean(errors_deg) < 10


def test_a_depth_map_does_not_depend_on_scale_and_shift() -> None:
    depth = np.random.default_rng(0).random((40, 60))
    one, other = (np.asarray(geometry.depth_map(d)).astype(int) for d in (depth, 7 * depth - 3))
    np.testing.assert_allclose(one, other, atol=1)
    assert (one.min(), one.max()) == (0, 255)


def test_normals_come_back_from_their_colours() -> None:
    vectors = np.random.default_rng(1).normal(size=(20, 30, 3))
    unit = vectors / np.linalg.norm(vectors, axis=2, keepdims=True)
    back = geometry.normals_of(geometry.normal_map(3 * vectors))
    assert np.degrees(np.arccos(np.clip((unit * back).sum(axis=2), -1, 1))).max() < 0.6


def test_turned_left_mirrors_x_alone() -> None:
    vectors = np.random.default_rng(2).normal(size=(9, 8, 3))
    straight = geometry.normals_of(geometry.normal_map(vectors))
    turned = geometry.normals_of(geometry.turned_left(geometry.normal_map(vectors)))
    np.testing.assert_allclose(turned * (-1, 1, 1), straight, atol=1e-6)
