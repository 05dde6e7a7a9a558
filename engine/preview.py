"""What a picture will become, shown while it is denoised: by a linear map, not by the slow decoder.

The network never sees pure latents, but it says at every step what it takes them to be. That guess, one colour for each
latent cell, is the preview. Knows nothing of jobs or pages.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from PIL import Image

from engine.families.components import Components

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Seen:
    """The last call of a denoiser: what it was given, and what it returned."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    output: tuple[Any, ...] = ()


@contextmanager
def watched(parts: Components) -> Iterator[Seen]:
    """Keep what the denoiser was last given and said."""
    seen = Seen()

    def look(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: tuple[Any, ...]) -> None:
        seen.args, seen.kwargs, seen.output = args, kwargs, output

    hook = parts.denoiser.register_forward_hook(look, with_kwargs=True)
    try:
        yield seen
    finally:
        hook.remove()


def latent_colours(latents_of: "Callable[[Tensor], Tensor]", cell_px: int) -> "Tensor":
    """The affine map from a latent cell to its mean colour from -1 to 1, (c + 1, 3), with the constant last.

    By least squares over two pictures of random colours, a smooth one and a busy one, whose latents are asked of
    `latents_of`. A latent cell has `cell_px` on a side.
    """
    import torch
    from torch.nn.functional import avg_pool2d, interpolate

    random = torch.Generator().manual_seed(0)
    smooth, busy = (torch.rand(1, 3, n, n, generator=random) * 2 - 1 for n in (8, 32))
    side_px = 16 * cell_px
    pictures = torch.cat([interpolate(smooth, side_px, mode="bilinear"), interpolate(busy, side_px, mode="nearest")])
    with torch.no_grad():
        latents = latents_of(pictures)
    cells = latents.float().cpu().movedim(1, -1).flatten(0, 2)
    colours = avg_pool2d(pictures, cell_px).movedim(1, -1).flatten(0, 2)
    # Latents may depend on each other: gelsd leaves out directions that only rounding would decide
    cells = torch.cat([cells, torch.ones(len(cells), 1)], dim=1)
    return torch.linalg.lstsq(cells, colours, rcond=1e-4, driver="gelsd").solution


def coloured(latents: "Tensor", colours: "Tensor", size: tuple[int, int]) -> Image.Image:
    """Latents (1, c, h, w) as a picture of `size` in pixels, by the map of `latent_colours`."""
    rgb = latents[0].float().cpu().movedim(0, -1) @ colours[:-1] + colours[-1]
    pixels = ((rgb / 2 + 0.5).clamp(0, 1) * 255).round().byte().numpy()
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
