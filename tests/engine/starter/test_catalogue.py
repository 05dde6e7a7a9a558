"""The conversion of meshes to distance grids, and the grids that are shipped."""

import numpy as np
import pytest

from engine.starter.catalogue import Model, grid_of, placed, read_obj
from engine.starter.tracing import BODY, CATALOGUE_FILE, DARK, WOOD, catalogue
from engine.starter.world import CATALOGUE

# A tray of 4 x 2 x 2 with its upper face missing, and its floor in another material.
TRAY = """
v 0 0 0
v 4 0 0
v 4 0 2
v 0 0 2
v 0 2 0
v 4 2 0
v 4 2 2
v 0 2 2
usemtl floor
f 1 2 3 4
usemtl side
f 1/1 2/1 6/1 5/1
f 2 3 7 6
f -6 -5 -1 -2
f 4 1 5 8
"""
MODEL = Model(file="tray", parts={"floor": DARK, "side": BODY}, longest=1.0)


def node(grid: dict[str, np.ndarray], *point: float) -> tuple[int, ...]:
    return tuple(np.round((np.array(point) - grid["lower"]) / grid["cell"]).astype(int))


def test_polygons_become_triangles_with_their_material() -> None:
    triangles, materials = read_obj(TRAY)
    assert triangles.shape == (10, 3, 3)
    assert materials.tolist() == ["floor"] * 2 + ["side"] * 8


def test_a_model_is_placed_on_the_ground_and_repainted() -> None:
    model = Model(
        file="tray",
        parts={"floor": DARK, "side": BODY},
        longest=1.0,
        sideways=True,
        repainted=((WOOD, ((-1.0, -1.0, 0.4), (1.0, 1.0, 1.1))),),
    )
    triangles, parts = placed(model, *read_obj(TRAY))
    np.testing.assert_allclose(triangles.min(axis=(0, 1)), (-0.5, 0.0, -1.0))
    np.testing.assert_allclose(triangles.max(axis=(0, 1)), (0.5, 1.0, 1.0))
    assert set(parts) == {BODY, DARK, WOOD}


def test_an_open_mesh_stays_open_and_its_distances_are_right() -> None:
    grid = grid_of(MODEL, *placed(MODEL, *read_obj(TRAY)), nodes=24)
    distances = grid["distances"]
    assert distances[node(grid, 0, 0.25, 0)] == pytest.approx(0.25, abs=0.03)
    assert distances[node(grid, 0, 0.5, 0)] > 0.2
    assert distances[node(grid, 0.5, 0.25, 0)] < 0.02
    assert grid["parts"][node(grid, 0, 0.05, 0)] == DARK
    assert grid["parts"][node(grid, 0.5, 0.4, 0)] == BODY


def test_a_closed_mesh_is_solid() -> None:
    grid = grid_of(MODEL, *placed(MODEL, *read_obj(TRAY + "f 5 6 7 8\n")), nodes=24)
    assert grid["distances"][node(grid, 0, 0.25, 0)] == pytest.approx(-0.25, abs=0.03)


def test_the_shipped_grids_are_small_and_safe_to_trace() -> None:
    assert CATALOGUE_FILE.stat().st_size < 2 * 2**20
    shipped = catalogue()
    assert len(shipped["grids"]) == len(CATALOGUE)
    # Hulls are of a model's farthest points in some directions only; boxes are wider by this, less the stretch.
    slack = 0.03 / 1.1
    rows = zip(shipped["grids"][:, 0], shipped["lower"], shipped["cell"], shipped["hulls"], strict=True)
    for grid, lower, cell, hull in rows:
        # Nothing touches the border, something is solid, and no step from node to node is longer than the way.
        assert min(face.min() for axis in range(3) for face in (grid.take(0, axis), grid.take(-1, axis))) > 0.02
        assert grid.min() < -0.02
        for axis in range(3):
            assert np.abs(np.diff(grid, axis=axis)).max() < 1.1 * cell[axis]
        solid = lower + np.argwhere(grid <= 0) * cell
        assert (solid.min(axis=0) > hull.min(axis=0) - slack).all()
        assert (solid.max(axis=0) < hull.max(axis=0) + slack).all()
        assert 0.6 < hull[:, 1].max() <= 1.0
        assert np.ptp(hull[:, 0]) <= 1.31
