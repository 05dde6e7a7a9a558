"""Makes distance grids of a few CC0 catalogue models: `python -m engine.starter.catalogue BlendSwap-CC-0.sh3f`.

The catalogue is a zip of OBJ meshes (Debian's package sweethome3d-furniture). Its meshes are rarely watertight, so none
is measured exactly: each is cut into small voxels, what a flood from outside cannot reach is solid, and the distance to
the solid is kept on a coarser grid, with the part that is nearest. Knows nothing about scenes, and nothing of how the
grids are traced.
"""

# scipy.ndimage is typed as if it might return nothing
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false

import argparse
import itertools
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from engine.starter.tracing import BAND, BODY, CATALOGUE_FILE, CREAM, DARK, TRIM, WOOD
from engine.starter.world import CATALOGUE

NODES = 64  # a side of a grid
FINE = 3  # voxels along a cell of the grid
MARGIN = 0.045  # around the model, so that its surface is nowhere near the grid's border
HULL_DIRECTIONS = 64

Box = tuple[tuple[float, float, float], tuple[float, float, float]]


@dataclass(frozen=True, kw_only=True)
class Model:
    """How a mesh becomes a kind of thing.

    parts: of each material. repainted: boxes, in the thing's own coordinates, whose faces are another part.
    longest: of its width and height, in units. sideways: the mesh looks along +z and is to look along +x. beyond: only
    faces whose x in the mesh is larger are kept. thickness: by how much the surface is moved outwards, for sheets.
    """

    file: str
    parts: Mapping[str, int]
    longest: float
    repainted: tuple[tuple[int, Box], ...] = ()
    sideways: bool = False
    beyond: float = field(default=-np.inf)
    thickness: float = 0.0


MODELS = {
    "sofa": Model(file="sofa2", parts={"Fabric": BODY, "Trim": TRIM, "Wood": WOOD}, longest=1.3),
    "boot": Model(
        file="bootie", parts={"Base": BODY, "Heel": DARK}, longest=1.2, sideways=True, beyond=-5.5, thickness=0.012
    ),
    "chicken": Model(
        file="chicken",
        parts={"Chicken": BODY, "Comb": BAND, "Material.001": DARK},
        longest=1.0,
        repainted=(
            (WOOD, ((-1.0, -1.0, -1.0), (1.0, 0.2, 1.0))),  # legs
            (WOOD, ((0.30, 0.8, -1.0), (1.0, 1.0, 1.0))),  # beak
        ),
        sideways=True,
        thickness=0.008,
    ),
    "cupcake": Model(
        file="cupcake",
        parts={"Cup": BODY, "Cake": WOOD, "Cream": CREAM, "Cherry": BAND, "Tail": DARK},
        longest=1.0,
        thickness=0.006,
    ),
}


def read_obj(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Triangles, float (n, 3, 3), and the name of each one's material, (n,)."""
    vertices: list[list[float]] = []
    triangles: list[tuple[int, int, int]] = []
    materials: list[str] = []
    material = ""
    for line in text.splitlines():
        word, *rest = line.split() or [""]
        if word == "v":
            vertices.append([float(number) for number in rest[:3]])
        elif word == "usemtl":
            material = rest[0]
        elif word == "f":
            corners = [int(corner.split("/")[0]) for corner in rest]
            corners = [corner - 1 if corner > 0 else len(vertices) + corner for corner in corners]
            for second, third in itertools.pairwise(corners[1:]):
                triangles.append((corners[0], second, third))
                materials.append(material)
    return np.array(vertices)[np.array(triangles)], np.array(materials)


def placed(model: Model, triangles: np.ndarray, materials: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The model's triangles (n, 3, 3) in the thing's own coordinates, and the part of each, uint8 (n,)."""
    kept = triangles[..., 0].min(axis=1) > model.beyond
    triangles, materials = triangles[kept], materials[kept]
    if model.sideways:
        triangles = triangles[..., [2, 1, 0]] * (1, 1, -1)
    low, high = triangles.min(axis=(0, 1)), triangles.max(axis=(0, 1))
    origin = np.array([(low[0] + high[0]) / 2, low[1], (low[2] + high[2]) / 2])
    triangles = (triangles - origin) * (model.longest / (high - low)[:2].max())

    parts = np.array([model.parts[material] for material in materials], np.uint8)
    middles = triangles.mean(axis=1)
    for part, (lower, upper) in model.repainted:
        parts[((middles > lower) & (middles < upper)).all(axis=1)] = part
    return triangles, parts


def surface_voxels(triangles: np.ndarray, parts: np.ndarray, side: int) -> np.ndarray:
    """The part of every voxel that a triangle goes through, int16 (side, side, side), -1 elsewhere.

    Triangles are in voxels. They are sampled so densely that a path from voxel to voxel cannot slip through.
    """
    voxels = np.full((side,) * 3, -1, np.int16)
    edges = np.linalg.norm(triangles - np.roll(triangles, 1, axis=1), axis=2).max(axis=1)
    steps = np.maximum(np.ceil(edges / 0.35).astype(int), 1)
    for step in np.unique(steps):
        i, j = np.mgrid[: step + 1, : step + 1]
        i, j = i[i + j <= step], j[i + j <= step]
        weights = np.stack([i, j, step - i - j], axis=1) / step
        for triangle, part in zip(triangles[steps == step], parts[steps == step], strict=True):
            x, y, z = (weights @ triangle).astype(int).T
            voxels[x, y, z] = part
    return voxels


def grid_of(model: Model, triangles: np.ndarray, parts: np.ndarray, nodes: int = NODES) -> dict[str, np.ndarray]:
    """The distance grid of placed triangles; its keys are those of the file, see `tracing.catalogue`."""
    margin = MARGIN + model.thickness
    low, high = triangles.min(axis=(0, 1)) - margin, triangles.max(axis=(0, 1)) + margin
    voxel = (high - low) / (nodes * FINE)
    surface = surface_voxels((triangles - low) / voxel, parts, nodes * FINE)
    regions, _ = ndimage.label(surface < 0)
    solid = regions != regions[0, 0, 0]

    out, into = (ndimage.distance_transform_edt(where, sampling=voxel) for where in (~solid, solid))
    half = voxel.mean() / 2
    distance = np.where(solid, half - into, out - half)
    nearest = ndimage.distance_transform_edt(surface < 0, sampling=voxel, return_distances=False, return_indices=True)
    # Voxels make stairs, between parts too; the smoothing that removes them is half as wide as a cell.
    smooth = ndimage.gaussian_filter(distance, FINE / 2) - model.thickness
    node = (slice(FINE // 2, None, FINE),) * 3
    part = surface[tuple(nearest)]
    kinds = np.unique(parts)
    shares = [ndimage.gaussian_filter((part == kind).astype(np.float32), FINE / 2)[node] for kind in kinds]
    return {
        "lower": low + voxel * FINE / 2,
        "cell": voxel * FINE,
        # Rounded to an even step, which packs better and still is a small part of a cell.
        "distances": (np.round(smooth[node] * 4096) / 4096).astype(np.float16),
        "parts": kinds[np.argmax(shares, axis=0)],
        "hulls": hull_of(triangles.reshape(-1, 3)),
    }


def hull_of(points: np.ndarray) -> np.ndarray:
    """The farthest of the points in many directions, (HULL_DIRECTIONS, 3)."""
    index = np.arange(HULL_DIRECTIONS) + 0.5
    height, turn = 1 - 2 * index / HULL_DIRECTIONS, index * np.pi * (1 + 5**0.5)
    around = np.sqrt(1 - height**2)
    directions = np.stack([around * np.cos(turn), height, around * np.sin(turn)], axis=1)
    return points[(points @ directions.T).argmax(axis=0)]


def convert(archive: Path, file: Path) -> None:
    """Write the grids of `MODELS`, in the order of `world.CATALOGUE`."""
    grids = []
    with zipfile.ZipFile(archive) as catalogue:
        for kind in CATALOGUE:
            model = MODELS[kind]
            text = catalogue.read(f"blendswap-cc-0/{model.file}/{model.file}.obj").decode()
            grids.append(grid_of(model, *placed(model, *read_obj(text))))
    file.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {key: np.stack([grid[key] for grid in grids]) for key in grids[0]}
    np.savez_compressed(file, **arrays)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archive", type=Path, help="BlendSwap-CC-0.sh3f")
    convert(parser.parse_args().archive, CATALOGUE_FILE)


if __name__ == "__main__":
    main()
