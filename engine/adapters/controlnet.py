"""ControlNets beside a UNet: their residuals are added to its own, as in Zhang et al., arXiv 2302.05543.

A hook before the UNet runs them on the same input and hands their residuals over, so that any pipeline of the base can
be steered. diffusers' `StableDiffusionControlNetPipeline` does the same arithmetic, but has no `guidance_rescale`, and
runs a ControlNet also in the steps where it does not count. Knows nothing of detectors or files.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any

from engine.adapters.window import Switch, within
from engine.families.base import Components

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, kw_only=True)
class Control:
    """A loaded ControlNet with its map, which has the size of the picture; how strongly, and during which part of the
    steps it acts."""

    controlnet: Any
    image: "Image"
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0


@contextmanager
def attach_controls(parts: Components, controls: Sequence[Control]) -> Iterator[Switch]:
    """Let the ControlNets steer the UNet in the body. Yields what switches them with the steps."""
    from diffusers.image_processor import VaeImageProcessor

    processor = VaeImageProcessor(vae_scale_factor=1, do_convert_rgb=True, do_normalize=False)
    unet = parts.unet
    maps = [processor.preprocess(control.image).to(unet.device, unet.dtype) for control in controls]
    strengths = [control.strength for control in controls]

    def switch(step: int, total: int) -> None:
        for i, control in enumerate(controls):
            strengths[i] = control.strength if within(step, total, control.start, control.end) else 0.0

    def add_residuals(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        sample, timestep = args
        down, middle = [], []
        for control, control_map, strength in zip(controls, maps, strengths, strict=True):
            if strength == 0:
                continue
            control_down, control_middle = control.controlnet(
                sample,
                timestep,
                encoder_hidden_states=kwargs["encoder_hidden_states"],
                controlnet_cond=control_map.repeat(len(sample), 1, 1, 1),
                conditioning_scale=strength,
                added_cond_kwargs=kwargs.get("added_cond_kwargs"),
                return_dict=False,
            )
            down.append(control_down)
            middle.append(control_middle)
        if middle:
            kwargs["down_block_additional_residuals"] = [reduce(add, block) for block in zip(*down, strict=True)]
            kwargs["mid_block_additional_residual"] = reduce(add, middle)
        return args, kwargs

    hook = unet.register_forward_pre_hook(add_residuals, with_kwargs=True)
    try:
        yield switch
    finally:
        hook.remove()
