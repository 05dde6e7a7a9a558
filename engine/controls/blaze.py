"""MediaPipe's single-shot detectors (BlazeFace, BlazePose): one network, anchors on grids, boxes with a few points.

Decoding and suppression follow MediaPipe's graphs (SsdAnchorsCalculator, TensorsToDetectionsCalculator,
NonMaxSuppressionCalculator with WEIGHTED). Nothing here knows what is being looked for.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import cv2
import numpy as np

DETECTORS_FOLDER = Path(__file__).parent.parent.parent / "presets" / "detectors"
SAME_OBJECT_IOU = 0.3


class Network:
    """A TensorFlow Lite file: one picture in, all outputs in the order of the file. Safe to call from any thread."""

    def __init__(self, path: Path) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(str(path), num_threads=1)
        self._interpreter.allocate_tensors()
        self._lock = Lock()

    def __call__(self, picture: np.ndarray) -> list[np.ndarray]:
        """`picture` is (height, width, 3), scaled as the network asks; every output loses its batch axis."""
        with self._lock:
            self._interpreter.set_tensor(self._interpreter.get_input_details()[0]["index"], np.float32(picture[None]))
            self._interpreter.invoke()
            return [self._interpreter.get_tensor(out["index"])[0] for out in self._interpreter.get_output_details()]


@cache
def network(file: str) -> Network:
    """The network `presets/detectors/<file>`, loaded once."""
    return Network(DETECTORS_FOLDER / file)


@dataclass(frozen=True, kw_only=True)
class Detector:
    """A detector file, the side of its square input, and per grid: (cells on a side, anchors in a cell)."""

    file: str
    side_px: int
    grids: tuple[tuple[int, int], ...]
    min_score: float


class Detection(NamedTuple):
    """Pixels of the picture: `box` is left, top, right, bottom; `points` is (n, 2)."""

    score: float
    box: np.ndarray
    points: np.ndarray


def find(detector: Detector, picture: np.ndarray) -> list[Detection]:
    """What `detector` finds in an RGB picture (height, width, 3), surest first."""
    square, scale, border = _letterbox(picture, detector.side_px)
    raw, scores = network(detector.file)(square / 127.5 - 1)
    scores = sigmoid(scores[:, 0])
    likely = scores >= detector.min_score

    # Each row is centre, size and points, as x and y in pixels of the input; all but the size from the anchor on
    pairs = raw[likely].reshape(-1, raw.shape[1] // 2, 2)
    anchors = detector.side_px * _anchors(detector.grids)[likely, None]
    centre, half, points = pairs[:, :1] + anchors, pairs[:, 1:2] / 2, pairs[:, 2:] + anchors
    corners = (np.concatenate([centre - half, centre + half, points], axis=1) - border) / scale
    return [Detection(score, found[:2].ravel(), found[2:]) for score, found in _suppressed(scores[likely], corners)]


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return (1 + np.tanh(logits / 2)) / 2  # cannot overflow


def _letterbox(picture: np.ndarray, side_px: int) -> tuple[np.ndarray, float, np.ndarray]:
    """The whole picture centred in a black square; how much it was scaled, and its left and top border in pixels."""
    height, width = picture.shape[:2]
    scale = side_px / max(height, width)
    small = cv2.resize(
        picture, (max(1, round(width * scale)), max(1, round(height * scale))), interpolation=cv2.INTER_AREA
    )
    top, left = (side_px - small.shape[0]) // 2, (side_px - small.shape[1]) // 2
    bottom, right = side_px - small.shape[0] - top, side_px - small.shape[1] - left
    square = cv2.copyMakeBorder(small, top, bottom, left, right, cv2.BORDER_CONSTANT)
    return square, scale, np.array([left, top])


@cache
def _anchors(grids: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Centres of all cells in 0..1, row by row, each as often as it has anchors: (n, 2)."""
    centres = []
    for cells, per_cell in grids:
        y, x = np.mgrid[:cells, :cells]
        centres.append(np.repeat((np.stack([x, y], axis=-1).reshape(-1, 2) + 0.5) / cells, per_cell, axis=0))
    return np.concatenate(centres)


def _suppressed(scores: np.ndarray, corners: np.ndarray) -> list[tuple[float, np.ndarray]]:
    """Overlapping finds become one: the best score, with the mean of all their corners weighted by score."""
    kept = []
    order = np.argsort(-scores)
    while len(order):
        same = _overlap(corners[order[0]], corners[order]) > SAME_OBJECT_IOU
        same[0] = True
        group = order[same]
        kept.append((float(scores[order[0]]), np.average(corners[group], axis=0, weights=scores[group])))
        order = order[~same]
    return kept


def _overlap(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of a box with others, each with left top and right bottom first."""
    shared = np.minimum(one[1], others[:, 1]) - np.maximum(one[0], others[:, 0])
    intersection = np.prod(np.clip(shared, 0, None), axis=1)
    union = np.prod(one[1] - one[0]) + np.prod(others[:, 1] - others[:, 0], axis=1) - intersection
    return intersection / np.maximum(union, 1e-9)
