"""Masks of style references: where in the picture a reference acts, white for there and black for not.

Nothing here knows of models or adapters.
"""

from PIL import Image, ImageOps

from engine.errors import BadImage
from engine.fitting import binary, cut_off

CUT_SHARE = 0.02


def style_mask(mask: Image.Image, width: int, height: int) -> Image.Image:
    """The mask at the size of the picture, cut to its shape around the middle; L, 0 or 255. Raises: BadImage."""
    fitted = binary(ImageOps.fit(mask.convert("L"), (width, height), Image.Resampling.BILINEAR))
    if fitted.getbbox() is None:
        raise BadImage(
            "The mask of a reference is black all over, so that it would act nowhere.",
            "Paint white where it shall act, or take the mask away.",
        )
    return fitted


def remarks(mask: Image.Image, width: int, height: int) -> list[str]:
    """What is done to a mask so that it fits a picture of this size, one sentence each."""
    cut = cut_off(mask, width, height)
    if cut <= CUT_SHARE:
        return []
    return [
        f"The mask is {mask.width} × {mask.height} px and the picture {width} × {height} px: {100 * cut:.0f}% of it, "
        "at the border, is cut off."
    ]
