"""Ready-made maps: another kind is refused, dark lines on white are turned round, and each kind is fitted to a picture.

Nothing here takes maps from photos.
"""

from PIL import Image, ImageOps

from engine.controls.recognise import LINES, recognise
from engine.errors import BadImage
from engine.fitting import cut_off

DRAWN = frozenset({"canny", "softedge", "lines", "scribble", "lineart"})
"""The kinds with light lines on black; a map of one does for another."""
THIN = frozenset({"canny", "lines"})
LINE_GREY = 48  # what a line one pixel wide fades to in a picture five times smaller
CUT_SHARE = 0.1
ENLARGED = 1.5


def serves(seen: str, kind: str) -> bool:
    """Whether a map that was recognised as `seen` can be one of `kind`."""
    return seen == kind or {seen, kind} <= DRAWN


def require_kind(kind: str, image: Image.Image, titles: dict[str, str]) -> None:
    """Raises: BadImage when a picture is plainly a map of another kind; `titles` are what people call the kinds."""
    seen = recognise(image)
    if seen is None or serves(seen.kind, kind):
        return
    seen_title = "edges" if seen.kind == LINES else titles[seen.kind].lower()
    raise BadImage(
        f"This is a map of {seen_title}, not of {titles[kind].lower()}.",
        f"Choose {titles[seen.kind]} as its kind, or give another map.",
    )


def remarks(kind: str, image: Image.Image, width: int, height: int) -> list[str]:
    """What is done to a ready-made map before it serves a picture of this size, one sentence each."""
    said = []
    if kind in DRAWN and _is_inverted(image):
        said.append("Its lines are dark on white: they are turned to light on black.")
    if (cut := cut_off(image, width, height)) > CUT_SHARE:
        said.append(
            f"It is {image.width} × {image.height} px and the picture {width} × {height} px: "
            f"{100 * cut:.0f}% of it, at the border, is cut off."
        )
    if (scale := max(width / image.width, height / image.height)) > ENLARGED:
        said.append(f"It is enlarged {scale:.1f} times: a larger map would be more exact.")
    return said


def fitted(kind: str, image: Image.Image, width: int, height: int) -> Image.Image:
    """The map at the size of the picture, cut to its shape around the middle, light on black where it has lines."""
    image, size = image.convert("RGB"), (width, height)
    if kind in DRAWN and _is_inverted(image):
        image = ImageOps.invert(image)
    if kind in THIN:  # a thin line that shrinks to grey is a line still
        resized = ImageOps.fit(image, size, Image.Resampling.BOX)
        return resized.point([255 * (value >= LINE_GREY) for value in range(256)] * 3)
    method = Image.Resampling.NEAREST if kind == "segmentation" else Image.Resampling.LANCZOS
    return ImageOps.fit(image, size, method)


def _is_inverted(image: Image.Image) -> bool:
    seen = recognise(image)
    return seen is not None and seen.inverted
