"""What the families with a transformer have in common: flow matching, and checkpoints that hold the transformer alone.

The noise of a picture is mixed in along a straight line, x = (1 - sigma) x0 + sigma e, and the transformer predicts
the line's direction e - x0 (Lipman et al., arXiv 2210.02747). Knows no family by name.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.families.base import Base, fetched
from engine.families.components import Components, Embeds
from engine.families.pipelines import PipelineFamily
from engine.settings import SchedulerName

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor

SCHEDULERS: tuple[SchedulerName, ...] = ("default",)
"""Euler's method along the line; the others are made for curved paths."""


def padded(embeds: "Sequence[Tensor]") -> Embeds:
    """Texts (tokens, width) of different lengths as one tensor, with a mask of what is text."""
    from torch.nn.utils.rnn import pad_sequence

    masks = [text.new_ones(len(text)).bool() for text in embeds]
    return {
        "prompt_embeds": pad_sequence(list(embeds), batch_first=True),
        "prompt_embeds_mask": pad_sequence(masks, batch_first=True),
    }


def trimmed(embeds: Embeds, side: str = "") -> "list[Tensor]":
    """The inverse of `padded`; `side` is how the names begin."""
    pairs = zip(embeds[f"{side}prompt_embeds"], embeds[f"{side}prompt_embeds_mask"], strict=True)
    return [text[mask] for text, mask in pairs]


@dataclass(kw_only=True)
class TransformerComponents(Components):
    """With a transformer, which is told noise levels and text."""

    transformer: Any

    @property
    def denoiser(self) -> Any:
        return self.transformer

    def map_pixels(self, image: "Image") -> "Tensor":
        """A control map from -1 to 1, (1, 3, h, w)."""
        from diffusers.image_processor import VaeImageProcessor

        return VaeImageProcessor(vae_scale_factor=1).preprocess(image).contiguous()


@dataclass(frozen=True, kw_only=True)
class TransformerFamily(PipelineFamily):
    """A family whose denoiser is a transformer that was trained by flow matching."""

    def set_steps(self, scheduler: Any, steps: int) -> None:
        scheduler.set_timesteps(steps, mu=0.0)  # that of the size of the picture shifts them, but adds none

    def _from_file(self, base: Base, dtype: "torch.dtype") -> Any:
        """The transformer of the file among the other parts of the base's companion."""
        assert base.companion is not None
        folder = self._configuration(base)
        transformer = self._denoiser_class(folder).from_single_file(
            str(fetched(base.source)),
            config=str(folder),
            subfolder=self.spec.denoiser,
            local_files_only=True,
            dtype=dtype,
        )
        return self._from_folder(base.companion, base, dtype, **{self.spec.denoiser: transformer})
