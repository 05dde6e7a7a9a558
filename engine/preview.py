"""What a picture will become, shown while it is denoised: by a linear map, not by the slow decoder.

The network never sees pure latents, but it says at every step what it takes them to be. That guess, one colour for each
latent cell, is the preview. Knows nothing of jobs or pages.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Seen:
    """The last step of a denoiser, for one picture: its input (1, c, h, w), the timestep, and its prediction."""

    noisy: Any = None
    timestep: Any = None
    prediction: Any = None


@contextmanager
def watched(unet: Any) -> Iterator[Seen]:
    """Keep what the denoiser last saw and said; of the two halves of classifier-free guidance, that with the prompt."""
    seen = Seen()

    def look(_: Any, args: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        seen.noisy, seen.timestep, seen.prediction = args[0][-1:], args[1], output[0][-1:]

    hook = unet.register_forward_hook(look)
    try:
        yield seen
    finally:
        hook.remove()


def denoised(seen: Seen, scheduler: Any) -> "Tensor":
    """The latents that the denoiser takes its input for, (1, c, h, w).

    Whatever the scheduler, the network sees x = a x0 + s e with a^2 + s^2 = 1, and predicts e or v = a e - s x0
    (Salimans and Ho, arXiv 2202.00512, appendix D).
    """
    alpha_squared = scheduler.alphas_cumprod[int(seen.timestep)].to(seen.noisy)
    a, s = alpha_squared.sqrt(), (1 - alpha_squared).sqrt()
    if scheduler.config.prediction_type == "v_prediction":
        return a * seen.noisy - s * seen.prediction
    return (seen.noisy - s * seen.prediction) / a


def latent_colours(vae: Any) -> "Tensor":
    """The affine map from a latent cell to its mean colour from -1 to 1, (c + 1, 3), with the constant last.

    By least squares over two pictures of random colours that the autoencoder encodes: a smooth one and a busy one.
    """
    import torch
    from torch.nn.functional import avg_pool2d, interpolate

    cell_px = 2 ** (len(vae.config.block_out_channels) - 1)
    random = torch.Generator().manual_seed(0)
    smooth, busy = (torch.rand(1, 3, n, n, generator=random) * 2 - 1 for n in (8, 32))
    side_px = 16 * cell_px
    pictures = torch.cat([interpolate(smooth, side_px, mode="bilinear"), interpolate(busy, side_px, mode="nearest")])
    with torch.no_grad():
        latents = vae.encode(pictures.to(vae.device, vae.dtype)).latent_dist.mode() * vae.config.scaling_factor
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
