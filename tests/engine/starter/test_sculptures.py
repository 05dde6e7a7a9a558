"""Solids at random: their distances in closed form, and grids that can be traced."""

import math

import numpy as np
import pytest

from engine.starter import corpus
from engine.starter.render import render
from engine.starter.sculptures import box, ellipsoid, frustum, grown_together, limb, moved, random_turn, sculpture


def at(*points: tuple[float, float, float]) -> np.ndarray:
    return np.array(points, float)


def test_distances_in_closed_form() -> None:
    ball = ellipsoid(np.full(3, 0.5))
    np.testing.assert_allclose(ball(at((2, 0, 0), (0, 0.1, 0))), (1.5, -0.4))
    brick = box(np.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(brick(at((4, 6, 3), (0, 0, 0), (0, 5, 0))), (5, -1, 3))
    rounded = box(np.array([1.0, 1.0, 1.0]), 0.5)
    np.testing.assert_allclose(rounded(at((1, 1, 1), (2, 0, 0))), (math.sqrt(0.75) - 0.5, 1))
    stick = limb(np.zeros(3), np.array([0.0, 1.0, 0.0]), 0.25)
    np.testing.assert_allclose(stick(at((1, 0.5, 0), (0, 3, 0))), (0.75, 1.75))


@pytest.mark.parametrize("sides", [0, 4, 6])
def test_a_frustum_has_its_radii_at_its_ends(sides: int) -> None:
    solid = frustum(0.6, 0.2, 0.5, sides)
    surface = at((0.6, -0.5, 0), (0.2, 0.5, 0), (0.4, 0, 0))
    np.testing.assert_allclose(solid(surface), 0, atol=1e-12)
    np.testing.assert_allclose(solid(at((0, 2, 0))), 1.5)
    # The mantle leans by 0.4 over a height of 1.
    np.testing.assert_allclose(solid(at((1.4, 0, 0))), 1 / math.hypot(1, 0.4))


def test_what_is_moved_keeps_its_distances() -> None:
    rng = np.random.default_rng(0)
    turn = random_turn(rng)
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(turn) == pytest.approx(1)
    brick, by, points = box(np.array([0.2, 0.3, 0.1])), np.array([1.0, 2.0, 3.0]), rng.normal(size=(50, 3))
    np.testing.assert_allclose(moved(brick, by, turn)(points @ turn.T + by), brick(points))


def test_what_is_far_apart_does_not_grow_together() -> None:
    near, far = np.array([0.0, 0.3, 0.1]), np.array([0.5, 0.0, 0.1])
    np.testing.assert_allclose(grown_together([near, far], 0.2), (0, 0, 0.1 - 0.2 / 4))


@pytest.mark.parametrize("seed", range(6))
def test_a_sculpture_stands_on_the_ground_within_its_grid(seed: int) -> None:
    grid = sculpture(np.random.default_rng(seed), nodes=32)
    distances = grid["distances"]
    assert distances.min() < 0
    for axis in range(3):
        assert distances.take((0, -1), axis=axis).min() > 0
    places = [grid["lower"][axis] + grid["cell"][axis] * np.arange(32) for axis in range(3)]
    solid = np.argwhere(distances <= 0)
    assert places[1][solid[:, 1].min()] == pytest.approx(0, abs=1e-6)
    for axis in (0, 2):
        assert places[axis][solid[:, axis].min()] == pytest.approx(-places[axis][solid[:, axis].max()], abs=1e-6)
    # A distance grows by no more than the way.
    for axis in range(3):
        assert np.abs(np.diff(distances, axis=axis)).max() < 1.01 * grid["cell"][axis]


def test_sculptures_are_traced_like_the_catalogue() -> None:
    """Large, with unit normals, the same bytes every time, and not the catalogue's thing."""
    index = next(i for i in range(50) if len(corpus.sculpture_scene(i).things) == 1)
    shown, grids = corpus.sculpture_scene(index), corpus.sculpted(index // corpus.VIEWS_OF_SCULPTURES)
    rendered = render(shown, 64, grids=grids)
    thing = rendered.segmentation == corpus.FIRST_THING
    assert thing.mean() > 0.05
    assert np.abs(np.linalg.norm(rendered.normals, axis=2) - 1).max() < 1e-3
    assert np.array_equal(render(shown, 64, grids=grids).image, rendered.image)
    assert not np.array_equal(render(shown, 64).image, rendered.image)
