"""Renders a scene, with its exact depth, normals, segmentation and joints. Knows nothing about captions or looks."""

from dataclasses import dataclass

import numpy as np

from engine.starter.staging import project_joints, stage
from engine.starter.tracing import Grids, catalogue, trace
from engine.starter.world import Scene


@dataclass(frozen=True)
class Render:
    """A picture and what is true about it.

    image: uint8 (H, W, 3), sRGB. depth: float32 (H, W), distance from the camera along the pixel's ray, at most
    `tracing.FAR`. normals: float32 (H, W, 3), unit, in the camera's coordinates; the sky faces the camera.
    segmentation: uint8 (H, W), 0 = sky or wall, 1 = ground, 2 + i = `things[i]`. joints: float32 (18, 3), x and y in
    pixels and visibility 0 or 1, in OpenPose's order of 18; None without a person.
    """

    image: np.ndarray
    depth: np.ndarray
    normals: np.ndarray
    segmentation: np.ndarray
    joints: np.ndarray | None


@dataclass(frozen=True, kw_only=True)
class Window:
    """A square part of a picture: its left and upper edge and its side, as shares of the picture's side."""

    left: float = 0.0
    top: float = 0.0
    side: float = 1.0


WHOLE = Window()


def render(scene: Scene, size: int = 256, window: Window = WHOLE, grids: Grids | None = None) -> Render:
    """Renders what the window shows of a scene at size x size pixels; the same scene gives the same bytes.

    `grids` are in the stead of `tracing.catalogue`.
    """
    grids = grids or catalogue()
    camera, things, joints, backdrop = stage(scene, grids)
    image, depth, normals, segmentation = trace(
        size, (window.left, window.top, window.side), camera, things, joints, backdrop, grids["grids"]
    )
    points = project_joints(scene, camera, things, joints, size)
    if points is not None:
        points[:, 0] = (points[:, 0] - size * window.left) / window.side
        points[:, 1] = (points[:, 1] - size * window.top) / window.side
    return Render(image, depth, normals, segmentation, points)


def joints_of(scene: Scene, size: int = 256) -> np.ndarray | None:
    """The `joints` of `render(scene, size)`, without rendering."""
    camera, things, joints, _ = stage(scene)
    return project_joints(scene, camera, things, joints, size)
