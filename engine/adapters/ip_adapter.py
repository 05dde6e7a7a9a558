"""Style references through an IP-Adapter: attention over image tokens beside attention over text (arXiv 2308.06721).

diffusers' own loader puts the adapter into the denoiser; afterwards that gets back what it had. Every reference has its
own copy of the adapter, so that it keeps its own weight and its own part of the steps: with all of them in one, their
tokens would share one softmax and one scale. Knows nothing of files or pipelines.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.adapters.window import Switch, within
from engine.errors import BadSettings
from engine.families.components import Components, IPAdapter

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

EVERYWHERE = ("",)


@dataclass(frozen=True, kw_only=True)
class Style:
    """A reference as `embed` gives it; how strongly, during which part of the steps, in which blocks of the denoiser,
    by how their names begin, and where in the picture it acts: where `mask`, which has the size of the picture, is
    white."""

    adapter: IPAdapter
    embedding: "Tensor"
    weight: float = 0.6
    start: float = 0.0
    end: float = 1.0
    blocks: tuple[str, ...] = EVERYWHERE
    mask: "Image | None" = None


def embed(adapter: IPAdapter, image: "Image") -> "Tensor":
    """What the adapter sees in nothing and in the image, the halves of classifier-free guidance: (2, 1, width), or
    (2, patches, width) if it takes patches."""
    import torch
    from PIL import Image

    encoder = adapter.image_encoder

    def seen(picture: Image.Image) -> "Tensor":
        pixels = adapter.feature_extractor(picture, return_tensors="pt").pixel_values.to(encoder.device, encoder.dtype)
        if adapter.takes_patches:
            return encoder(pixels, output_hidden_states=True).hidden_states[-2][0]
        return encoder(pixels).image_embeds

    with torch.no_grad():
        embedding = seen(image)
        nothing = seen(Image.new("RGB", image.size)) if adapter.nothing_is_black else torch.zeros_like(embedding)
        return torch.stack([nothing, embedding])


@contextmanager
def attach_styles(parts: Components, styles: Sequence[Style]) -> Iterator[Switch]:
    """Let the references, at least one, act in the body; the pipeline needs their embeddings. Yields what switches them
    with the steps."""
    denoiser: Any = parts.denoiser

    def switch(step: int, total: int) -> None:
        acting = [s.weight if within(step, total, s.start, s.end) else 0.0 for s in styles]
        for name, processor in denoiser.attn_processors.items():
            if hasattr(processor, "scale"):
                scales = [a if name.startswith(s.blocks) else 0.0 for s, a in zip(styles, acting, strict=True)]
                processor.scale = scales if isinstance(processor.scale, list) else scales[0]

    for style in styles:
        _require_blocks(denoiser, style.blocks)
    processors = dict(denoiser.attn_processors)
    try:
        with (
            _restored(denoiser, ("encoder_hid_proj", "image_proj")),
            _restored(denoiser.config, ("encoder_hid_dim_type",)),
        ):
            parts.take_styles([style.adapter for style in styles])
            with _masked(denoiser, [style.mask for style in styles]):
                yield switch
    finally:  # once the projection is gone, which may have attention too
        denoiser.set_attn_processor(processors)


def _require_blocks(denoiser: Any, blocks: tuple[str, ...]) -> None:
    for block in blocks:
        if not any(name.startswith(block) for name in denoiser.attn_processors):
            raise BadSettings(
                f"This base has no block {block}, where that part of a reference would act.",
                "Take all of the reference.",
            )


@contextmanager
def _masked(denoiser: Any, masks: "Sequence[Image | None]") -> Iterator[None]:
    """In the body every call of the denoiser gets the masks, as diffusers' pipelines hand them over."""
    from diffusers.image_processor import IPAdapterMaskProcessor

    if not any(masks):
        yield
        return
    processor = IPAdapterMaskProcessor()
    white = [mask and processor.preprocess(mask, mask.height, mask.width) for mask in masks]

    def hand_over(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        given = kwargs.get("cross_attention_kwargs") or {}
        return args, kwargs | {"cross_attention_kwargs": given | {"ip_adapter_masks": white}}

    hook = denoiser.register_forward_pre_hook(hand_over, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def _restored(owner: Any, names: Sequence[str]) -> Iterator[None]:
    """Afterwards these attributes are what they were, or gone if they were not there."""
    before = {name: getattr(owner, name) for name in names if hasattr(owner, name)}
    try:
        yield
    finally:
        for name in names:
            # A module that is None keeps its place among the modules, where there may have been a plain attribute
            if hasattr(owner, name):
                delattr(owner, name)
            if name in before:
                setattr(owner, name, before[name])
