"""One training photo: the square around its subject, how blurred that is, and whether two squares show the same.

Plain image processing on OpenCV and numpy, calibrated on the sample subjects. Nothing here knows of datasets.
"""

import cv2
import numpy as np
from PIL import Image

from engine.controls.faces import find_faces
from engine.settings import CropBox

MIN_CROP_PX = 256
MARGIN = 0.2  # around the subject, in all, as a share of its longer side
SALIENCY_SIDE_PX = 128
BORDER_SHARE = 0.1  # a colour that this much of the border comes close to is background
HEAD = (0.35, 0.7, 0.35, 0.25)  # what a head adds to its face on the left, top, right and bottom, in face sizes

VIEW_SIDE_PX = 256
"""The side that `blur_px` and `same_view` are calibrated for."""
EDGE_SHARE = 0.01
ALIKE_AT_A_GLANCE, ALIKE = 0.75, 0.99


def cropped(image: Image.Image, crop: CropBox | None, side_px: int) -> Image.Image:
    """The square `crop` of a photo at `side_px`; the largest central square without a crop.

    A crop that reaches past the border is moved inside.
    """
    shorter = min(image.size)
    if crop is None:
        crop = CropBox(left_px=(image.width - shorter) // 2, top_px=(image.height - shorter) // 2, side_px=shorter)
    side = min(crop.side_px, shorter)
    left, top = min(crop.left_px, image.width - side), min(crop.top_px, image.height - side)
    box = (left, top, left + side, top + side)
    return image.resize((side_px, side_px), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)


def suggest_crop(image: Image.Image) -> CropBox:
    """A square with the whole subject and a little room, at least `MIN_CROP_PX` wide where the photo has that.

    The subject is what stands out from the colours of the border, and a head if there is one. Where a square cannot
    hold it all, the largest one is put around the head, or where most of the subject is.
    """
    low, high, middle = _salient(image)
    faces = find_faces(image)
    if faces:
        face = max(faces, key=lambda f: f.right - f.left)
        size = np.array([face.right - face.left, face.bottom - face.top])
        low = np.minimum(low, np.array([face.left, face.top]) - HEAD[:2] * size)
        high = np.maximum(high, np.array([face.right, face.bottom]) + HEAD[2:] * size)
        middle = np.array([face.left, face.top]) + size / 2

    limits = np.array(image.size)
    low, high = np.clip(low, 0, limits), np.clip(high, 0, limits)
    extent = high - low
    shorter = min(image.size)
    side = int(np.clip((1 + MARGIN) * extent.max(), min(MIN_CROP_PX, shorter), shorter))
    if faces:
        middle = middle + np.array([0, side / 6])  # heads belong in the upper third
    centre = np.where(extent <= side, (low + high) / 2, middle)
    left, top = np.clip(np.round(centre - side / 2), 0, limits - side).astype(int)
    return CropBox(left_px=int(left), top_px=int(top), side_px=side)


def _salient(image: Image.Image) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Left top, right bottom and middle, in pixels, of what differs in colour from the border of the picture."""
    small = image.convert("RGB")
    small.thumbnail((SALIENCY_SIDE_PX, SALIENCY_SIDE_PX))
    lab = cv2.cvtColor(np.asarray(small, np.float32) / 255, cv2.COLOR_RGB2Lab)
    border = np.concatenate([lab[0], lab[-1], lab[:, 0], lab[:, -1]])[::8]
    distances = np.linalg.norm(lab[:, :, None] - border, axis=-1)
    nearest = int(BORDER_SHARE * len(border))
    contrast = cv2.GaussianBlur(np.partition(distances, nearest, axis=-1)[:, :, nearest], (0, 0), 0.75)

    grey = (contrast * (255 / max(contrast.max(), 1e-6))).astype(np.uint8)
    threshold, _ = cv2.threshold(grey, 0, 255, cv2.THRESH_OTSU)
    stands_out = (grey > threshold / 2).astype(np.uint8)  # half of Otsu's, so that the dim parts of a subject stay on
    stands_out = cv2.morphologyEx(stands_out, cv2.MORPH_OPEN, np.ones((2, 2)))
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(stands_out)
    areas = statistics[1:, cv2.CC_STAT_AREA]
    large = np.isin(labels, 1 + np.flatnonzero(areas >= 0.1 * areas.max(initial=0)))
    y, x = np.nonzero(large if large.any() else np.ones_like(large))
    scale = np.array(image.size) / small.size
    low, high = np.array([x.min(), y.min()]), np.array([x.max() + 1, y.max() + 1])
    return low * scale, high * scale, np.array([x.mean() + 0.5, y.mean() + 0.5]) * scale


def blur_px(view: Image.Image) -> float:
    """The blur of the sharpest edges, as the sigma of a Gaussian in pixels: 0.3 to 0.45 for a crisp photo.

    The variance of the Laplacian, normalised by contrast: across an edge blurred by sigma the gradient is a Gaussian,
    for which the energy of its derivative is 1 / (2 sigma^2) of its own.
    """
    grey = np.asarray(view.convert("L"), np.float32)
    curvature = cv2.Laplacian(grey, cv2.CV_32F) ** 2
    across, down = (cv2.Sobel(grey, cv2.CV_32F, dx, dy, scale=1 / 8) for dx, dy in ((1, 0), (0, 1)))
    slope = across**2 + down**2
    edges = (slope >= np.quantile(slope, 1 - EDGE_SHARE)).astype(np.uint8)
    edges = cv2.dilate(edges, np.ones((5, 5))).astype(bool)
    return float(np.sqrt(slope[edges].mean() / (2 * max(curvature[edges].mean(), 1e-6))))


def same_view(one: Image.Image, other: Image.Image) -> bool:
    """Whether two squares are one shot: encoded again, brightened, blurred, cropped a little, or the next of a burst.

    They are, if after the best affine alignment (ECC, Evangelidis and Psarakis 2008) they correlate to `ALIKE`.
    Different views of one thing before one background stay below 0.987 on the samples; of copies that were moved or
    turned a little, those with hardly any contrast are missed.
    """
    first, second = (_pixels(view, "RGB", 32) for view in (one, other))
    if cv2.matchTemplate(first, second[2:-2, 2:-2], cv2.TM_CCOEFF_NORMED).max() < ALIKE_AT_A_GLANCE:
        return False
    first, second = (_pixels(view, "L", 64) for view in (one, other))
    everywhere = np.full(first.shape, 255, np.uint8)
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 40, 1e-4)
    try:
        correlation, _ = cv2.findTransformECC(
            first, second, np.eye(2, 3, dtype=np.float32), cv2.MOTION_AFFINE, stop, everywhere, 3
        )
    except cv2.error:  # no alignment was found
        return False
    return correlation >= ALIKE


def _pixels(view: Image.Image, mode: str, side_px: int) -> np.ndarray:
    return np.asarray(view.convert(mode).resize((side_px, side_px), Image.Resampling.BOX), np.float32)
