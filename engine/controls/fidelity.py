"""How well one map keeps another: a number per kind, with its method and its range.

Compared are the map that was asked for and the one taken again from the picture that was made. Nothing here knows of
detectors or pictures.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from engine.controls import skeletons
from engine.controls.ade20k import classes_of
from engine.controls.geometry import normals_of
from engine.errors import NothingDetected

EDGE_TOLERANCE_PX = 2
MIN_CLASS_SHARE = 0.001  # of the pixels; smaller areas are seams between two others
TURNED_DEG = 15.0
PCK_REACH = 0.1
MIN_CONFIDENCE = 0.5


@dataclass(frozen=True, kw_only=True)
class Measure:
    """`between` gives a number from `worst` to `best` for the map asked for and the map found, of one size."""

    title: str
    method: str
    worst: float
    best: float
    between: Callable[[Image.Image, Image.Image], float]


def edge_f1(asked: Image.Image, found: Image.Image, tolerance_px: int = EDGE_TOLERANCE_PX) -> float:
    """Harmonic mean of precision and recall of the light pixels; one counts as met within `tolerance_px`."""
    masks = [np.asarray(map_.convert("L")) >= 128 for map_ in (asked, found)]
    if not masks[0].any() and not masks[1].any():
        return 1.0
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * tolerance_px + 1, 2 * tolerance_px + 1))
    near_asked, near_found = (cv2.dilate(mask.astype(np.uint8), disc).astype(bool) for mask in masks)
    recall = (masks[0] & near_found).sum() / max(masks[0].sum(), 1)
    precision = (masks[1] & near_asked).sum() / max(masks[1].sum(), 1)
    return float(2 * precision * recall / max(precision + recall, 1e-9))


def depth_correlation(asked: Image.Image, found: Image.Image) -> float:
    """Pearson's correlation of the grey values, which knows neither their scale nor their shift; 0 if one is flat."""
    one, other = (np.asarray(map_.convert("L"), np.float64).ravel() for map_ in (asked, found))
    one, other = one - one.mean(), other - other.mean()
    length = np.linalg.norm(one) * np.linalg.norm(other)
    return float(one @ other / length) if length > 0 else 0.0


def class_miou(asked: Image.Image, found: Image.Image) -> float:
    """Intersection over union, averaged over the classes of the map asked for."""
    one, other = (classes_of(map_)[0] for map_ in (asked, found))
    classes = np.flatnonzero(np.bincount(one.ravel()) > MIN_CLASS_SHARE * one.size)
    return float(np.mean([((one == c) & (other == c)).sum() / ((one == c) | (other == c)).sum() for c in classes]))


def normal_median_deg(asked: Image.Image, found: Image.Image, mask: np.ndarray | None = None) -> float:
    """The median angle between the normals in degrees, of the pixels where `mask` (h, w) is true."""
    cosine = (normals_of(asked) * normals_of(found)).sum(axis=2)
    angles_deg = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    return float(np.median(angles_deg if mask is None else angles_deg[mask]))


def relief_kept_deg(asked: Image.Image, found: Image.Image) -> float:
    """The mean of two `normal_median_deg`: where the map asked for is turned from the camera, and where the other is.

    Plain walls are alike in all pictures and do not count; a drawn ground that was not asked for counts as one half,
    however large it is.
    """
    reliefs = [normals_of(map_)[:, :, 2] < np.cos(np.radians(TURNED_DEG)) for map_ in (asked, found)]
    return float(np.mean([normal_median_deg(asked, found, relief) for relief in reliefs if relief.any()] or [0.0]))


def pose_pck(asked: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> float:
    """The share of joints found within a tenth of the longer side of the box around their person (PCK@0.1).

    People are (18, 3): x, y and confidence; joints below `MIN_CONFIDENCE` do not count. Everyone asked for is compared
    with whoever found fits best.
    """
    right = total = 0
    for person in asked:
        seen = person[:, 2] >= MIN_CONFIDENCE
        reach = PCK_REACH * np.ptp(person[seen, :2], axis=0).max()
        hits = [
            (seen & (other[:, 2] >= MIN_CONFIDENCE) & (np.linalg.norm((other - person)[:, :2], axis=1) <= reach)).sum()
            for other in found
        ]
        right, total = right + max(hits, default=0), total + seen.sum()
    return float(right / total) if total else 1.0


def joints_kept(asked: Image.Image, found: Image.Image) -> float:
    """`pose_pck` of the people in two OpenPose drawings. Raises: NothingDetected for nobody in the one asked for."""
    people = skeletons.read(asked)
    if not people:
        raise NothingDetected("Nobody can be made out in this pose map.", "Use a larger one.")
    return pose_pck(people, skeletons.read(found))


_EDGES = Measure(
    title="Edges kept",
    method=f"F1 of the light pixels, met within {EDGE_TOLERANCE_PX} px",
    worst=0.0,
    best=1.0,
    between=edge_f1,
)

MEASURES = {
    **dict.fromkeys(("canny", "softedge", "lines", "scribble", "lineart"), _EDGES),
    "openpose": Measure(
        title="Pose kept",
        method="share of joints found within a tenth of the person (PCK@0.1)",
        worst=0.0,
        best=1.0,
        between=joints_kept,
    ),
    "depth": Measure(
        title="Depth kept",
        method="Pearson's correlation of relative inverse depth",
        worst=-1.0,
        best=1.0,
        between=depth_correlation,
    ),
    "segmentation": Measure(
        title="Areas kept",
        method="intersection over union, mean of the classes asked for",
        worst=0.0,
        best=1.0,
        between=class_miou,
    ),
    "normal": Measure(
        title="Surfaces kept",
        method="median angle between the normals, in degrees, where either map is turned from the camera, averaged",
        worst=180.0,
        best=0.0,
        between=relief_kept_deg,
    ),
}
