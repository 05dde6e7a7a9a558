"""The picture that another one starts from: brought to size, its mask, and the repainted part put back.

White in a mask is repainted, black stays to the last bit. Nothing here knows of models.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from engine.errors import BadImage
from engine.fitting import WHITE, binary, cut_off
from engine.settings import StartImage

Box = tuple[int, int, int, int]
"""Left, top, right and bottom edge in pixels."""

CUT_SHARE = 0.02


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a pipeline starts from. `image` and `mask` (L, 0 or 255) have the size of the picture that is drawn.

    `whole` is what the drawn picture goes back into, at `box`, where `whole_mask` is white; all None without a mask.
    """

    image: Image.Image
    strength: float
    mask: Image.Image | None = None
    whole: Image.Image | None = None
    whole_mask: Image.Image | None = None
    box: Box | None = None
    feather_px: int = 0

    def put_back(self, drawn: Image.Image) -> Image.Image:
        """`drawn` where the mask is white, and the start, pixel by pixel, where it is black."""
        if self.whole is None or self.whole_mask is None or self.box is None:
            return drawn
        left, top, right, bottom = self.box
        patch = drawn if drawn.size == (right - left, bottom - top) else _resized(drawn, right - left, bottom - top)
        picture = self.whole.copy()
        picture.paste(patch, self.box, feathered(self.whole_mask, self.feather_px).crop(self.box))
        return picture

    def seen(self, whole: Image.Image, width: int, height: int) -> Image.Image:
        """The part that is drawn of another picture of the same whole, such as a control map."""
        return whole if self.box is None else _resized(whole.crop(self.box), width, height)


def start_from(use: StartImage, image: Image.Image, mask: Image.Image | None, width: int, height: int) -> Start:
    """The start of a picture of `width` x `height` pixels, cut to its shape around the middle. Raises: BadImage."""
    image = image.convert("RGB")
    if mask is None:
        return Start(image=_fitted(image, width, height), strength=use.strength)
    require_mask(image, mask)
    mask = binary(mask)
    if use.only_masked:
        box = surroundings(mask, width, height, use.padding_px)
        near, near_mask = _resized(image.crop(box), width, height), _resized(mask.crop(box), width, height, hard=True)
    else:
        image, mask = _fitted(image, width, height), _fitted(mask, width, height, hard=True)
        box, near, near_mask = (0, 0, width, height), image, mask
    if near_mask.getbbox() is None:
        raise BadImage(
            f"At {width} × {height} px nothing is left of the mask.",
            "Paint more of it, nearer to the middle, or give the picture the shape of its start.",
        )
    return Start(
        image=near,
        strength=use.strength,
        mask=near_mask,
        whole=image,
        whole_mask=mask,
        box=box,
        feather_px=use.feather_px,
    )


def empty_mask(image: Image.Image) -> Image.Image:
    """A mask of a picture with nothing marked, to be painted on."""
    return Image.new("L", image.size)


def require_mask(image: Image.Image, mask: Image.Image) -> None:
    """Raises: BadImage when the mask is of another size, or marks nothing."""
    if mask.size != image.size:
        raise BadImage(
            f"The mask is {mask.width} × {mask.height} px and the picture {image.width} × {image.height} px.",
            "Give a mask of the same size, or paint it on the picture.",
        )
    if mask.convert("L").getextrema()[1] < WHITE:  # type: ignore[operator]
        raise BadImage("The mask is empty.", "Paint over what shall be redrawn, or clear the mask.")


def remarks(image: Image.Image, width: int, height: int) -> list[str]:
    """What is done to a picture so that one of this size can start from it, one sentence each."""
    cut = cut_off(image, width, height)
    if cut <= CUT_SHARE:
        return []
    return [
        f"It is {image.width} × {image.height} px and the new picture {width} × {height} px: {100 * cut:.0f}% of it, "
        "at the border, is cut off."
    ]


def surroundings(mask: Image.Image, width: int, height: int, padding_px: int) -> Box:
    """The box around what is white, `padding_px` wider on each side and grown to the shape of `width` x `height`,
    as far as the picture goes: A1111's "only masked"."""
    from diffusers.image_processor import VaeImageProcessor

    return VaeImageProcessor.get_crop_region(mask, width, height, padding_px)


def feathered(mask: Image.Image, feather_px: int) -> Image.Image:
    """The mask (0 or 255), rising from its border inwards over `feather_px`; what is black stays black."""
    import cv2

    if feather_px == 0:
        return mask
    depth_px = cv2.distanceTransform(np.asarray(mask), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return Image.fromarray((255 * np.minimum(1, depth_px / (feather_px + 1))).round().astype(np.uint8))


def _fitted(image: Image.Image, width: int, height: int, *, hard: bool = False) -> Image.Image:
    return ImageOps.fit(image, (width, height), Image.Resampling.NEAREST if hard else Image.Resampling.LANCZOS)


def _resized(image: Image.Image, width: int, height: int, *, hard: bool = False) -> Image.Image:
    return image.resize((width, height), Image.Resampling.NEAREST if hard else Image.Resampling.LANCZOS)
