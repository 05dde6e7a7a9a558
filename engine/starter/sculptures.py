"""Solids that no word names, from which detectors learn shapes: balls, boxes, prisms, cones and limbs at random.

Of three sorts: stacked upon an axis like a lantern, heaped like a toy animal, and branching like a figure. They are
distance grids as those of the catalogue (`tracing.catalogue`) and are traced by the same code. Distances are those of
Quilez, "Distance functions", or lower bounds of them. Knows nothing about scenes.
"""

from collections.abc import Callable, Sequence

import numpy as np

from engine.starter.catalogue import MARGIN, NODES, hull_of
from engine.starter.tracing import BAND, BODY, CREAM, DARK, METAL, SHADED, TRIM, WOOD

PARTS = (BODY, BODY, BODY, TRIM, SHADED, DARK, METAL, CREAM, WOOD, BAND)
_COARSE = 24  # nodes a side of the grid that finds where a sculpture is

# From points (n, 3) to their distance from a solid, (n,).
Solid = Callable[[np.ndarray], np.ndarray]


def ellipsoid(radii: np.ndarray) -> Solid:
    """Around the origin; `radii` (3,). A lower bound, by the least radius."""
    return lambda points: (np.linalg.norm(points / radii, axis=1) - 1) * radii.min()


def box(half: np.ndarray, round_by: float = 0.0) -> Solid:
    """Around the origin; `half` (3,) its half sides, rounding included."""

    def distance(points: np.ndarray) -> np.ndarray:
        beyond = np.abs(points) - (half - round_by)
        outside = np.linalg.norm(np.maximum(beyond, 0), axis=1)
        return outside + np.minimum(beyond.max(axis=1), 0) - round_by

    return distance


def frustum(bottom: float, top: float, half_height: float, sides: int) -> Solid:
    """Upon the y axis, around the origin, between two radii; with 3 `sides` or more a pyramid's stump, else round."""
    slope = (bottom - top) / (2 * half_height)
    steep = np.hypot(1, slope)

    def distance(points: np.ndarray) -> np.ndarray:
        x, y, z = points.T
        if sides >= 3:
            turns = np.arange(sides) * 2 * np.pi / sides
            across = (x[:, None] * np.cos(turns) + z[:, None] * np.sin(turns)).max(axis=1)
        else:
            across = np.hypot(x, z)
        mantle = (across - (bottom + top) / 2 + slope * y) / steep
        return np.maximum(mantle, np.abs(y) - half_height)

    return distance


def limb(start: np.ndarray, end: np.ndarray, radius: float) -> Solid:
    """A line between two points (3,) with a radius."""
    along = end - start

    def distance(points: np.ndarray) -> np.ndarray:
        share = np.clip((points - start) @ along / (along @ along), 0, 1)
        return np.linalg.norm(points - start - share[:, None] * along, axis=1) - radius

    return distance


def moved(solid: Solid, by: np.ndarray, turn: np.ndarray) -> Solid:
    """Turned by a matrix (3, 3), then moved."""
    return lambda points: solid((points - by) @ turn)


def random_turn(rng: np.random.Generator) -> np.ndarray:
    """Any rotation, evenly."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))


def stacked(rng: np.random.Generator) -> list[Solid]:
    """Pieces upon each other on an upright axis, all turned about it alike."""
    heights = rng.uniform(0.25, 1.0, rng.integers(2, 7))
    heights = heights / heights.sum()
    angle = rng.uniform(0, 2 * np.pi)
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
    sides = int(rng.choice((0, 4, 4, 6, 8)))
    solids: list[Solid] = []
    for base, height in zip(np.cumsum(heights) - heights, heights, strict=True):
        radius = rng.uniform(0.12, 0.5)
        sort = rng.random()
        if sort < 0.2:
            solid = ellipsoid(np.array([radius, height / 2 + 0.02, radius]))
        elif sort < 0.4:
            solid = box(np.array([radius, height / 2, radius * rng.uniform(0.6, 1)]), rng.uniform(0, 0.3) * height / 2)
        else:
            solid = frustum(radius, radius * rng.uniform(0.3, 1.6), height / 2 + 0.005, sides)
        solids.append(moved(solid, np.array([0, base + height / 2, 0]), turn))
    return solids


def heaped(rng: np.random.Generator) -> list[Solid]:
    """Pieces of any sort, anyhow."""
    solids: list[Solid] = []
    for _ in range(rng.integers(2, 8)):
        sort, size = rng.random(), rng.uniform(0.08, 0.3)
        if sort < 0.5:
            solid = ellipsoid(size * rng.uniform(0.6, 1.2, 3))
        elif sort < 0.75:
            solid = box(size * rng.uniform(0.4, 1.2, 3), 0.05 * size)
        else:
            solid = frustum(size * rng.uniform(0.5, 1), size * rng.uniform(0.2, 1), size, int(rng.choice((0, 0, 4, 6))))
        solids.append(moved(solid, rng.uniform((-0.25, 0.2, -0.25), (0.25, 0.8, 0.25)), random_turn(rng)))
    return solids


def branching(rng: np.random.Generator) -> list[Solid]:
    """Limbs that go on from each other."""
    joints = [np.array([0.0, rng.uniform(0.4, 0.7), 0.0])]
    solids: list[Solid] = [moved(ellipsoid(rng.uniform(0.1, 0.22, 3)), joints[0], random_turn(rng))]
    for _ in range(rng.integers(4, 10)):
        start = joints[int(rng.integers(len(joints)))]
        direction = rng.normal(size=3) * (1, 1, 0.7)
        end = start + direction / np.linalg.norm(direction) * rng.uniform(0.15, 0.4)
        end = np.clip(end, (-0.5, 0.06, -0.5), (0.5, 1.0, 0.5))
        solids.append(limb(start, end, rng.uniform(0.035, 0.1)))
        if rng.random() < 0.25:
            solids.append(moved(ellipsoid(rng.uniform(0.06, 0.16, 3)), end, random_turn(rng)))
        joints.append(end)
    return solids


def grown_together(distances: Sequence[np.ndarray], by: float) -> np.ndarray:
    """The union; over a width of `by` the solids flow into each other (Quilez, "Smooth minimum")."""
    union = distances[0]
    for distance in distances[1:]:
        share = np.maximum(by - np.abs(union - distance), 0) / by
        union = np.minimum(union, distance) - share**2 * by / 4
    return union


def sculpture(rng: np.random.Generator, nodes: int = NODES) -> dict[str, np.ndarray]:
    """A random solid of about one unit that stands on y = 0 around the origin, as `catalogue.grid_of` has it."""
    make = (stacked, heaped, branching)[int(rng.integers(3))]
    solids = make(rng)
    by = 1e-6 if make is stacked or rng.random() < 0.3 else rng.uniform(0.02, 0.1)

    def at(low: np.ndarray, high: np.ndarray, count: int) -> tuple[np.ndarray, list[np.ndarray]]:
        axes = [np.linspace(a, b, count) for a, b in zip(low, high, strict=True)]
        points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
        return points, [solid(points) for solid in solids]

    middle = np.array([0, 0.5, 0])
    points, distances = at(middle - 1, middle + 1, _COARSE)
    inside = points[grown_together(distances, by) < 2 / _COARSE]
    low, high = inside.min(axis=0) - MARGIN, inside.max(axis=0) + MARGIN
    points, distances = at(low, high, nodes)
    union = grown_together(distances, by)
    solid = points[union <= 0]
    standing = (solid.min(axis=0) + solid.max(axis=0)) / 2
    standing[1] = solid[:, 1].min()
    colours = rng.choice(PARTS, len(solids))
    return {
        "lower": low - standing,
        "cell": (high - low) / (nodes - 1),
        "distances": union.reshape(nodes, nodes, nodes).astype(np.float32),
        "parts": colours[np.argmin(distances, axis=0)].reshape(nodes, nodes, nodes).astype(np.float32),
        "hulls": hull_of(solid - standing),
    }
