"""Lets diffusers' inpainting pipelines run ordinary UNets of any number of channels.

They keep what is not masked by noising the start again after every step, for every UNet with four input channels: that
is how they tell it from one that was trained on masks and takes nine. Knows nothing of pictures.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

ORDINARY_CHANNELS = 4


@contextmanager
def as_ordinary(unet: Any) -> Iterator[None]:
    """In the body, the UNet's configuration says four channels; the UNet itself is the same."""
    channels = unet.config.in_channels
    unet.config.in_channels = ORDINARY_CHANNELS
    try:
        yield
    finally:
        unet.config.in_channels = channels
