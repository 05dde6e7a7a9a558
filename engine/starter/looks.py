"""Looks: what turns a render into a watercolour, a blueprint and so on.

Knows pixels only, nothing about scenes. Every look is unmistakable, the same for every content, and smooth at pixel
scale; its parameters (palette, line weight, paper tone) vary a little with the generator that is passed in.
"""

from collections.abc import Callable

import cv2
import numpy as np

Image = np.ndarray  # uint8 (H, W, 3), sRGB


def apply_look(image: Image, look: str, rng: np.random.Generator) -> Image:
    """The picture in a look, as uint8 of the same shape; the same generator state gives the same bytes.

    Lengths are in pixels at 256 px and scale with the picture.
    """
    return _LOOKS[look](image, rng)


# ---- shared strokes


def _float(image: Image) -> np.ndarray:
    return image.astype(np.float32) / 255


def _bytes(image: np.ndarray) -> Image:
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def _luma(image: np.ndarray) -> np.ndarray:
    return image @ np.array([0.299, 0.587, 0.114], np.float32)


def _rgb(*value: int) -> np.ndarray:
    return np.array(value, np.float32) / 255


def _jitter(rng: np.random.Generator, rgb: np.ndarray, spread: float = 0.02) -> np.ndarray:
    return np.clip(rgb + rng.normal(0, spread, 3), 0, 1).astype(np.float32)


def _blur(image: np.ndarray, sigma_px: float) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), sigma_px * image.shape[0] / 256)


def _clouds(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Smooth noise in about -1..1: a coarse random grid, enlarged."""
    coarse = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)


def _flatten(image: Image, spatial: int = 9, colour: int = 40, rounds: int = 2) -> Image:
    """Edge-preserving smoothing at half size."""
    small = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    for _ in range(rounds):
        small = cv2.bilateralFilter(small, spatial, colour, spatial)
    return cv2.blur(cv2.resize(small, image.shape[1::-1], interpolation=cv2.INTER_LINEAR), (3, 3))


def _lines(image: Image, thickness: float = 1.0, gain: float = 3.0) -> np.ndarray:
    """Strength 0..1 of the outlines, over all three channels, about `thickness` px wide."""
    smooth = _blur(_float(image), 0.8 * thickness)
    across, down = cv2.Scharr(smooth, cv2.CV_32F, 1, 0) / 16, cv2.Scharr(smooth, cv2.CV_32F, 0, 1) / 16
    strength = np.sqrt((across**2 + down**2).max(axis=2)) * image.shape[0] / 256
    return np.clip((strength * gain - 0.06) * 1.6, 0, 1)


# ---- the looks


def _photo(image: Image, rng: np.random.Generator) -> Image:
    return image


def _watercolour(image: Image, rng: np.random.Generator) -> Image:
    size = image.shape[0]
    wash = _float(_flatten(image, 9, 60, 3))
    # Displaced edges, as wet paint runs.
    grid_y, grid_x = np.mgrid[:size, :size].astype(np.float32)
    reach = 1.7 * size / 256
    wash = cv2.remap(
        wash,
        grid_x + reach * _clouds(rng, size, 14),
        grid_y + reach * _clouds(rng, size, 14),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT,
    )
    paper = _jitter(rng, _rgb(252, 248, 238), 0.006)
    luma = _luma(wash)[..., None]
    vivid = luma + (wash - luma) * 1.15
    pigment = 0.80 + 0.09 * _clouds(rng, size, 7)[..., None] + 0.04 * _clouds(rng, size, 18)[..., None]
    result = 1 - (1 - vivid) * pigment
    # Pigment gathers at the borders of a wash.
    rim = np.clip(_blur(_luma(wash), 2.2) - _luma(wash), -0.2, 0.2)[..., None]
    result = result - 0.9 * np.abs(rim) * (1.1 - vivid)
    # Unpainted paper around the picture, with an uneven border.
    from_edge = np.minimum(np.minimum(grid_x, size - 1 - grid_x), np.minimum(grid_y, size - 1 - grid_y)) * 256 / size
    from_edge = from_edge + 4 * _clouds(rng, size, 7) + 2 * _clouds(rng, size, 18)
    mask = np.clip((from_edge - 9) / 5, 0, 1)[..., None]
    return _bytes((result * mask + 1 - mask) * paper)


def _pencil_sketch(image: Image, rng: np.random.Generator) -> Image:
    grey = _luma(_float(_flatten(image, 7, 40, 1)))
    dodge = grey / np.maximum(_blur(grey, 5.0), 0.05)
    shade = 1 - 0.36 * np.clip(1 - _blur(grey, 1.5) * 1.15, 0, 1)
    outline = _lines(image, rng.uniform(0.9, 1.2), 3.2)
    tone = np.clip(0.15 + 0.85 * np.minimum(dodge, 1), 0, 1) * shade * (1 - 0.72 * outline)
    # Hatching: slanted soft strokes in the shade only.
    size = image.shape[0]
    grid_y, grid_x = np.mgrid[:size, :size].astype(np.float32) * 256 / size
    wave = 0.5 + 0.5 * np.sin((grid_x + grid_y * rng.uniform(0.7, 1.0)) * 2 * np.pi / rng.uniform(8.0, 10.0))
    tone = tone * (1 - 0.16 * wave * np.clip(1.25 - 2.2 * _blur(grey, 2.0), 0, 1))
    paper, lead = _jitter(rng, _rgb(247, 245, 240), 0.006), _rgb(52, 52, 58)
    return _bytes(lead + (paper - lead) * tone[..., None])


def _pixel_art(image: Image, rng: np.random.Generator) -> Image:
    size = image.shape[0]
    blocks = int(rng.choice((43, 51)))
    small = cv2.resize(_flatten(image, 7, 40, 1), (blocks, blocks), interpolation=cv2.INTER_AREA)
    small = cv2.addWeighted(small, 1.5, cv2.GaussianBlur(small, (0, 0), 1.0), -0.5, 0)
    lab = cv2.cvtColor(_float(small), cv2.COLOR_RGB2Lab)
    # A limited palette: few levels of lightness, stronger and coarser hues.
    lab[..., 0] = np.round(lab[..., 0] / 8) * 8
    lab[..., 1:] = np.round(lab[..., 1:] * 1.15 / 7) * 7
    return cv2.resize(_bytes(cv2.cvtColor(lab, cv2.COLOR_Lab2RGB)), (size, size), interpolation=cv2.INTER_NEAREST)


def _neon(image: Image, rng: np.random.Generator) -> Image:
    line = _lines(cv2.bilateralFilter(image, 7, 50, 5), rng.uniform(1.2, 1.5), 4.0)
    size = image.shape[0]
    palette = ((255, 60, 190), (60, 220, 255)), ((255, 90, 60), (150, 80, 255)), ((80, 255, 160), (60, 140, 255))
    first, second = (_rgb(*rgb) for rgb in palette[rng.integers(len(palette))])
    ramp = np.linspace(0, 1, size, dtype=np.float32)
    slant = rng.uniform(-0.5, 0.5)
    blend = np.clip(ramp[:, None] + slant * (ramp[None, :] - 0.5), 0, 1)[..., None]
    hue = first + (second - first) * blend
    core, glow, haze = line[..., None], _blur(line, 2.6)[..., None], _blur(line, 9)[..., None]
    dark = _jitter(rng, _rgb(10, 8, 28), 0.008)
    return _bytes(dark + hue * (0.8 * core + 1.1 * glow + 0.9 * haze) + 0.6 * core**2)


def _vintage(image: Image, rng: np.random.Generator) -> Image:
    size = image.shape[0]
    tone = np.clip(_luma(_blur(_float(image), 0.8)) * 0.92 + 0.06, 0, 1)
    dark, light = _jitter(rng, _rgb(58, 32, 18), 0.008), _jitter(rng, _rgb(252, 222, 174), 0.008)
    tone = tone * tone * (3 - 2 * tone)
    ramp = np.linspace(-1, 1, size, dtype=np.float32)
    far = ramp[:, None] ** 2 + ramp[None, :] ** 2
    vignette = 1 - rng.uniform(0.30, 0.42) * np.clip(far - 0.35, 0, 1.3)
    result = (dark + (light - dark) * tone[..., None]) * vignette[..., None]
    # The white border of an old print.
    edge = rng.uniform(8, 11) * size / 256
    grid = np.minimum(np.arange(size), np.arange(size)[::-1]).astype(np.float32)
    inside = np.clip(np.minimum(grid[:, None], grid[None, :]) - edge + 0.5, 0, 1)[..., None]
    return _bytes(result * inside + (1 - inside) * _jitter(rng, _rgb(244, 234, 210), 0.008))


def _pop_art(image: Image, rng: np.random.Generator) -> Image:
    flat = _float(cv2.medianBlur(_flatten(image, 9, 60, 2), 5))
    hsv = cv2.cvtColor(flat, cv2.COLOR_RGB2HSV)
    hsv[..., 1] = np.clip(hsv[..., 1] * 1.7 + 0.05 * (hsv[..., 1] > 0.06), 0, 1)
    steps = 3.0
    level = hsv[..., 2] * steps
    hsv[..., 2] = np.clip((np.floor(level) + np.clip((level - np.floor(level) - 0.5) * 8 + 0.5, 0, 1)) / steps, 0, 1)
    result = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    # Halftone dots where the picture is in its middle tones.
    size = image.shape[0]
    grid_y, grid_x = np.mgrid[:size, :size].astype(np.float32) * 256 / size
    pitch = rng.uniform(11.5, 14.0)
    wave = np.cos((grid_x + grid_y) * np.pi * 1.4142 / pitch) * np.cos((grid_x - grid_y) * np.pi * 1.4142 / pitch)
    dots = np.clip((np.abs(wave) - 0.55) * 5, 0, 1)
    middle = np.clip(1 - np.abs(_blur(_luma(flat), 2) - 0.62) * 5, 0, 1)
    result = result * (1 - 0.22 * (dots * middle)[..., None])
    ink = np.clip(_lines(image, rng.uniform(1.0, 1.2), 3.4) * 1.6 - 0.25, 0, 1)
    return _bytes(result * (1 - ink[..., None] * 0.96))


def _blueprint(image: Image, rng: np.random.Generator) -> Image:
    size = image.shape[0]
    paper, ink = _jitter(rng, _rgb(26, 74, 158), 0.015), _rgb(226, 238, 255)
    line = np.clip(_lines(image, rng.uniform(0.8, 1.0), 4.2), 0, 1)
    pixel = np.arange(size, dtype=np.float32) * 256 / size
    pitch = rng.uniform(18.5, 22.5)

    def rule(phase: float) -> np.ndarray:
        near = np.abs((pixel / pitch + phase + 0.5) % 1 - 0.5) * pitch
        return np.clip(1.3 - near, 0, 1)

    grid = np.maximum(rule(rng.random())[:, None], rule(rng.random())[None, :])
    tone = 0.07 * _luma(_blur(_float(image), 1.5)) + 0.16 * grid + 0.92 * line
    return _bytes(paper + (ink - paper) * np.clip(tone, 0, 1)[..., None])


def _kuwahara(image: np.ndarray, radius: int) -> np.ndarray:
    """Each pixel becomes the mean of its calmest quadrant (Kuwahara et al., 1976): flat dabs with crisp edges."""
    luma = _luma(image)
    side = radius + 1
    mean = cv2.blur(np.dstack([image, luma, luma * luma]), (side, side))
    spread = mean[..., 4] - mean[..., 3] ** 2
    best, result = np.full(luma.shape, np.inf, np.float32), np.empty_like(image)
    half, height, width = radius // 2, *luma.shape
    padded = cv2.copyMakeBorder(np.dstack([mean[..., :3], spread]), half, half, half, half, cv2.BORDER_REFLECT)
    for top in (0, 2 * half):
        for left in (0, 2 * half):
            quadrant = padded[top : top + height, left : left + width]
            calmer = quadrant[..., 3] < best
            best = np.where(calmer, quadrant[..., 3], best)
            result = np.where(calmer[..., None], quadrant[..., :3], result)
    return result


def _oil_painting(image: Image, rng: np.random.Generator) -> Image:
    size = image.shape[0]
    dabs = _blur(_kuwahara(_float(image), max(2, round(6 * size / 512) * 2)), 0.7)
    luma = _luma(dabs)[..., None]
    warm = (luma + (dabs - luma) * 1.35) * _jitter(rng, _rgb(252, 240, 216), 0.01)
    # Broad strokes of thick paint: smooth noise smeared along a slowly turning direction.
    angle = rng.uniform(0, np.pi) + 1.0 * _clouds(rng, size, 4)
    step_x, step_y = np.cos(angle) * size / 256, np.sin(angle) * size / 256
    grid_y, grid_x = np.mgrid[:size, :size].astype(np.float32)
    ridge = _clouds(rng, size, 56)
    for reach in (3.0, 6.0):
        ahead = cv2.remap(ridge, grid_x + reach * step_x, grid_y + reach * step_y, 1, borderMode=cv2.BORDER_REFLECT)
        behind = cv2.remap(ridge, grid_x - reach * step_x, grid_y - reach * step_y, 1, borderMode=cv2.BORDER_REFLECT)
        ridge = (ridge + ahead + behind) / 3
    return _bytes(((warm - 0.5) * 1.10 + 0.48) * (1 + 0.075 * ridge[..., None]))


def _pastel(image: Image, rng: np.random.Generator) -> Image:
    size = image.shape[0]
    flat = _float(_flatten(image, 9, 60, 2))
    luma = _luma(flat)[..., None]
    # Chalk: light, gently coloured, with soft broad strokes and a blurred outline in the colour itself.
    soft = 0.32 + 0.66 * (0.92 * luma + 0.08 + (flat - luma) * 1.12)
    grid_y, grid_x = np.mgrid[:size, :size].astype(np.float32) * 256 / size
    slant = rng.uniform(0.7, 1.1)
    wave = np.sin((grid_x - slant * grid_y) * 2 * np.pi / rng.uniform(15, 19) + 3 * _clouds(rng, size, 8))
    line = _lines(image, 2.0, 2.4)[..., None]
    chalk = soft + 0.016 * wave[..., None] + 0.02 * _clouds(rng, size, 12)[..., None]
    return _bytes(chalk * _jitter(rng, _rgb(255, 249, 243), 0.006) * (1 - 0.42 * line * (1.1 - soft)))


def _duotone(image: Image, rng: np.random.Generator) -> Image:
    tone = _luma(_blur(_float(image), 0.6))
    low, high = np.percentile(tone[::4, ::4], (2, 98))
    tone = np.clip((tone - low) / max(high - low, 0.2), 0, 1)
    dark, light = _jitter(rng, _rgb(8, 62, 78)), _jitter(rng, _rgb(255, 226, 178))
    return _bytes(dark + (light - dark) * tone[..., None])


def _kraft_charcoal(image: Image, rng: np.random.Generator) -> Image:
    grey = _luma(_float(_flatten(image, 9, 50, 2)))
    size = image.shape[0]
    paper = _jitter(rng, _rgb(196, 154, 108), 0.012)
    coal, chalk = _rgb(40, 34, 32), _rgb(252, 246, 236)
    black = np.clip(0.75 * np.clip(0.52 - grey, 0, 1) * 2 + _lines(image, 1.8, 3.0), 0, 0.94)[..., None]
    white = (0.85 * np.clip((_blur(grey, 1.0) - 0.74) * 4, 0, 1))[..., None]
    base = paper * (1 + 0.02 * _clouds(rng, size, 24)[..., None])
    return _bytes((base + (chalk - base) * white) * (1 - black) + coal * black)


_LOOKS: dict[str, Callable[[Image, np.random.Generator], Image]] = {
    "photo": _photo,
    "watercolour": _watercolour,
    "pencil sketch": _pencil_sketch,
    "pixel art": _pixel_art,
    "neon": _neon,
    "vintage": _vintage,
    "pop art": _pop_art,
    "blueprint": _blueprint,
    "oil painting": _oil_painting,
    "pastel": _pastel,
    "duotone": _duotone,
    "charcoal on kraft paper": _kraft_charcoal,
}
HELD_OUT_LOOKS = ("duotone", "charcoal on kraft paper")
LOOKS = tuple(look for look in _LOOKS if look not in HELD_OUT_LOOKS)
COLOURLESS_LOOKS = frozenset({"pencil sketch", "neon", "blueprint", "vintage", *HELD_OUT_LOOKS})
