"""Pictures, maps and masks brought to the size of another picture: what is cut off, and masks in black and white.

Nothing here knows what they are for.
"""

from PIL import Image

WHITE = 128  # from this grey on, a mask is white


def cut_off(image: Image.Image, width: int, height: int) -> float:
    """The share of a picture that is lost, from 0 to 1, when it is cut to the shape of `width` x `height`."""
    scale = max(width / image.width, height / image.height)
    return 1 - width * height / (scale**2 * image.width * image.height)


def binary(mask: Image.Image) -> Image.Image:
    """A mask as L, 0 or 255."""
    return mask.convert("L").point([0] * WHITE + [255] * (256 - WHITE))
