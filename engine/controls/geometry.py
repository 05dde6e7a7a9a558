"""Depth and normals as maps: near is white; normals have x right, y up and z towards the camera, as the samples do.

Plain geometry on arrays. Nothing here knows of networks or files.
"""

import cv2
import numpy as np
from PIL import Image

FOCAL_LENGTH = 1.2  # in longer sides of the picture: a view of 45 degrees, between a phone and a portrait lens
FARTHEST = 0.6  # inverse depth of the farthest point, where the nearest has 1: relative depth leaves it open
SMOOTH_SHARE = 1 / 250  # of the longer side: irons out the steps of 8 bits


def depth_map(inverse_depth: np.ndarray) -> Image.Image:
    """Relative inverse depth (h, w) stretched to black (far) and white (near), without its few most extreme values."""
    far, near = np.quantile(inverse_depth, (0.001, 0.999))
    grey = np.clip((inverse_depth - far) / max(near - far, 1e-12), 0, 1)
    return Image.fromarray(np.round(255 * grey).astype(np.uint8)).convert("RGB")


def normal_map(normals: np.ndarray) -> Image.Image:
    """Normals (h, w, 3) of any length, as colours."""
    unit = normals / np.maximum(np.linalg.norm(normals, axis=2, keepdims=True), 1e-6)
    return Image.fromarray(np.round(127.5 * (unit + 1)).astype(np.uint8))


def turned_left(map_: Image.Image) -> Image.Image:
    """The same normals with x to the left, as some ControlNets were taught."""
    red, green, blue = map_.convert("RGB").split()
    return Image.merge("RGB", (red.point(lambda value: 255 - value), green, blue))


def normals_of(map_: Image.Image) -> np.ndarray:
    """The unit normals (h, w, 3) that the colours of a map stand for."""
    vectors = np.asarray(map_.convert("RGB")).astype(np.float32) / 127.5 - 1
    return vectors / np.maximum(np.linalg.norm(vectors, axis=2, keepdims=True), 1e-6)


def normals_from_depth(inverse_depth: np.ndarray) -> np.ndarray:
    """The unit normals (h, w, 3) of the surface with this relative inverse depth (h, w), near 1 and far 0.

    A plane has an inverse depth w that is linear in the picture: w = a x + b y + c, with x and y from the middle in
    focal lengths; its normal, towards the camera, is (-a, b, c) where y points down. So at every pixel the normal is
    (-dw/dx, dw/dy, w - x dw/dx - y dw/dy).
    """
    height, width = inverse_depth.shape
    longer_px = max(height, width)
    inverse = (FARTHEST + (1 - FARTHEST) * inverse_depth).astype(np.float32)
    inverse = cv2.GaussianBlur(inverse, (0, 0), SMOOTH_SHARE * longer_px)
    focal_px = FOCAL_LENGTH * longer_px
    across, down = (
        focal_px * cv2.Sobel(inverse, cv2.CV_32F, *direction, scale=1 / 8) for direction in ((1, 0), (0, 1))
    )
    y, x = np.mgrid[:height, :width].astype(np.float32)
    x, y = (x - (width - 1) / 2) / focal_px, (y - (height - 1) / 2) / focal_px
    normals = np.stack([-across, down, inverse - x * across - y * down], axis=2)
    return normals / np.linalg.norm(normals, axis=2, keepdims=True)
