"""Straight lines, by M-LSD tiny (Gu et al. 2022): for buildings, rooms, shelves and boxes.

The network looks at the picture stretched to 512 px. It gives a score to every cell of a grid of 256, for a line whose
middle it is, and from there the way to both of its ends. The drawing is controlnet_aux's: thin and white.
"""

from functools import cache
from threading import Lock

import cv2
import numpy as np
from PIL import Image

from engine.controls.blaze import DETECTORS_FOLDER
from engine.errors import NothingDetected

FILE = "edges/mlsd_512x512_tiny.onnx"
SIDE_PX, CELLS = 512, 256
MOST = 200  # lines, surest first

_lock = Lock()  # a network of OpenCV works for one thread at a time


@cache
def _network() -> cv2.dnn.Net:
    return cv2.dnn.readNetFromONNX(str(DETECTORS_FOLDER / FILE))


def find_lines(image: Image.Image, *, min_score: float, min_length: float) -> np.ndarray:
    """The ends of each line in pixels, (n, 2, 2): start and end, x and y. `min_length` in pixels of a square of 512."""
    small = np.asarray(image.convert("RGB").resize((SIDE_PX, SIDE_PX), Image.Resampling.BOX), np.float32)
    with _lock:
        _network().setInput(np.concatenate([small, np.ones_like(small[:, :, :1])], axis=2)[None])
        ways, scores = (output[0] for output in _network().forward(("offsets", "scores")))
    cells = np.argsort(-scores.ravel())[:MOST]
    cells = cells[scores.ravel()[cells] >= min_score]
    middles = np.stack([cells % CELLS, cells // CELLS], axis=1)
    ends = (middles[:, None] + ways.reshape(-1, 2, 2)[cells]) * (SIDE_PX / CELLS)
    ends = ends[np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1) >= min_length]
    return ends * (np.array(image.size) / SIDE_PX)


def detect(image: Image.Image, *, min_score: float, min_length: float) -> Image.Image:
    """The lines, white on black. Raises: NothingDetected."""
    found = find_lines(image, min_score=min_score, min_length=min_length)
    if not len(found):
        raise NothingDetected(
            "No straight lines were found in this picture.", "Show less sure and shorter ones, or use another control."
        )
    canvas = np.zeros((image.height, image.width, 3), np.uint8)
    width_px = max(1, round(min(image.size) / SIDE_PX))
    for start, end in np.round(found).astype(int).tolist():
        cv2.line(canvas, start, end, (255, 255, 255), width_px)
    return Image.fromarray(canvas)
