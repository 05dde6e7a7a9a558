"""Maps of edges that need no network: outlines, soft edges, line art, scribbles. All are light on black.

Widths are those of a picture with a shorter side of 512 px and grow with it. Nothing here knows of other kinds.
"""

import cv2
import numpy as np
from PIL import Image

from engine.errors import NothingDetected

SIDE_PX = 512
FAINT = 8.0  # a change of brightness by this much over an edge is noise
FULL_SHARE = 0.98  # the strongest 2% of a soft map are white
REMEDY = "Use a picture with more contrast, or another kind of layout."


def canny(image: Image.Image, *, low_threshold: float, high_threshold: float) -> Image.Image:
    """controlnet_aux works at multiples of 64 px: the picture is padded to one, so that not a pixel is resampled."""
    from controlnet_aux.canny import CannyDetector

    padded = _padded(image)
    shorter_px = min(padded.shape[:2])
    edges = CannyDetector()(
        padded, int(low_threshold), int(high_threshold), detect_resolution=shorter_px, image_resolution=shorter_px
    )
    edge_map = _cut(edges, image)
    if edge_map.getbbox() is None:
        raise NothingDetected(
            "No edges were found in this picture.", "Lower both thresholds, or use a clearer picture."
        )
    return edge_map


def soft_edges(image: Image.Image, *, softness: float) -> Image.Image:
    """How steeply the colour changes, at `softness` px and at twice that, where the steeper counts.

    The largest eigenvalue of the colours' structure tensor (Di Zenzo 1986), which joins the channels.
    """
    pixels = np.asarray(image, np.float32)
    steepness = np.maximum(*(scale * _steepness(pixels, scale) for scale in (_px(image, softness * k) for k in (1, 2))))
    if steepness.max() < FAINT:
        raise NothingDetected("No edges were found in this picture.", REMEDY)
    full = max(FAINT, float(np.quantile(steepness, FULL_SHARE)))
    return _light(np.clip(steepness / full, 0, 1) ** 0.8)


def line_art(image: Image.Image, *, width: float) -> Image.Image:
    """What is darker than its surroundings, as if inked: controlnet_aux's standard line art."""
    from controlnet_aux.lineart_standard import LineartStandardDetector

    padded = _padded(image)
    if np.ptp(np.asarray(image.convert("L"))) < FAINT:
        raise NothingDetected("No lines were found in this picture.", REMEDY)
    lines = LineartStandardDetector()(padded, _px(image, width), detect_resolution=min(padded.shape[:2]))
    return _cut(lines, image)


def scribble(image: Image.Image, *, width: float, detail: float) -> Image.Image:
    """A few thick strokes: the outlines of a blurred picture without the short ones. `detail` 0..1 keeps more."""
    blurred = cv2.GaussianBlur(np.asarray(image), (0, 0), _px(image, 5 - 4 * detail))
    slopes = [cv2.Sobel(blurred, cv2.CV_16S, *direction) for direction in ((1, 0), (0, 1))]
    high = max(4 * FAINT, float(np.quantile(np.abs(slopes).sum(axis=0).max(axis=2), 0.92 - 0.1 * detail)))
    outlines = cv2.Canny(blurred, high / 2, high)
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(outlines)
    long_enough = statistics[:, cv2.CC_STAT_AREA] >= _px(image, 60 - 40 * detail)
    long_enough[0] = False  # what is no line
    if not long_enough.any():
        raise NothingDetected("No outlines were found in this picture.", REMEDY)
    stroke_px = max(1, round(_px(image, width)))
    brush = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (stroke_px, stroke_px))
    return _light(cv2.dilate(np.take(long_enough, labels.astype(np.intp)).astype(np.float32), brush))


def _steepness(pixels: np.ndarray, scale_px: float) -> np.ndarray:
    blurred = cv2.GaussianBlur(pixels, (0, 0), scale_px)
    across, down = (cv2.Sobel(blurred, cv2.CV_32F, *direction, scale=1 / 8) for direction in ((1, 0), (0, 1)))
    xx, yy, xy = (across**2).sum(axis=2), (down**2).sum(axis=2), (across * down).sum(axis=2)
    return np.sqrt((xx + yy + np.sqrt((xx - yy) ** 2 + 4 * xy**2)) / 2)


def _px(image: Image.Image, width: float) -> float:
    return width * min(image.size) / SIDE_PX


def _padded(image: Image.Image) -> np.ndarray:
    return np.pad(np.asarray(image), ((0, -image.height % 64), (0, -image.width % 64), (0, 0)), mode="edge")


def _cut(padded: Image.Image | np.ndarray, image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(padded)[: image.height, : image.width])


def _light(strength: np.ndarray) -> Image.Image:
    """Strengths (h, w), 0..1, as RGB."""
    return Image.fromarray(np.repeat(np.round(255 * strength).astype(np.uint8)[:, :, None], 3, axis=2))
