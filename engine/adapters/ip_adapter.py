"""Style references through an IP-Adapter: attention over image tokens beside attention over text (arXiv 2308.06721).

diffusers' own loader puts the adapter into the UNet; afterwards the UNet gets back what it had. Every reference has its
own copy of the adapter, so that it keeps its own weight and its own part of the steps: with all of them in one, their
tokens would share one softmax and one scale. Knows nothing of files or pipelines.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.adapters.window import Switch, within
from engine.families.base import Components, IPAdapter

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Style:
    """A reference as `embed` gives it; how strongly, and during which part of the steps it acts."""

    adapter: IPAdapter
    embedding: "Tensor"
    weight: float = 0.6
    start: float = 0.0
    end: float = 1.0


def embed(adapter: IPAdapter, image: "Image") -> "Tensor":
    """What the adapter sees in nothing and in the image, (2, 1, width): the halves of classifier-free guidance."""
    import torch

    encoder = adapter.image_encoder
    pixels = adapter.feature_extractor(image, return_tensors="pt").pixel_values.to(encoder.device, encoder.dtype)
    embedding = encoder(pixels).image_embeds
    return torch.stack([torch.zeros_like(embedding), embedding])


@contextmanager
def attach_styles(parts: Components, styles: Sequence[Style]) -> Iterator[Switch]:
    """Let the references, at least one, act in the body; the pipeline needs their embeddings. Yields what switches them
    with the steps."""
    unet: Any = parts.unet

    def switch(step: int, total: int) -> None:
        scales = [s.weight if within(step, total, s.start, s.end) else 0.0 for s in styles]
        for name, processor in unet.attn_processors.items():
            if name.endswith("attn2.processor"):
                processor.scale = scales

    processors, projection = dict(unet.attn_processors), unet.encoder_hid_proj
    projection_type = unet.config.encoder_hid_dim_type
    try:
        unet._load_ip_adapter_weights([style.adapter.state for style in styles])
        yield switch
    finally:
        unet.set_attn_processor(processors)
        # As assigning None would keep an empty place among the modules, where there was a plain attribute
        del unet.encoder_hid_proj
        unet.encoder_hid_proj = projection
        unet.config.encoder_hid_dim_type = projection_type
