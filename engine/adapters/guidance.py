"""Classifier-free guidance at the denoiser itself, for what pipelines cannot do: rescaled, for a part of the steps.

A pipeline calls its denoiser on both halves at once, [negative, positive], and puts u + w (c - u) together. Here the
denoiser answers with the guided prediction in both halves, which any pipeline then puts together to itself, bit by bit.
In steps without guidance only the positive half is computed: limited to the middle of the noise levels, pictures get
better and faster (Kynkäänniemi et al., arXiv 2404.07724). Knows nothing of schedulers or settings.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from engine.adapters.halves import positive
from engine.adapters.window import Switch, within

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def attach_guidance(
    denoiser: Any, scale: float, *, rescale: float = 0.0, start: float = 0.0, end: float = 1.0
) -> Iterator[Switch]:
    """Guide with `scale` in the body, from the fraction `start` of the steps to `end`. `rescale` is phi of arXiv
    2305.08891, section 3.4. Yields what switches guidance with the steps.

    What else is attached sees the one half that is computed.
    """
    import torch
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

    acts = True

    def switch(step: int, total: int) -> None:
        nonlocal acts
        acts = within(step, total, start, end)

    def before(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
        if acts:
            return None
        size = len(args[0] if args else kwargs["hidden_states"])
        return positive(args, size), positive(kwargs, size)

    def after(_: Any, args: tuple[Any, ...], output: "tuple[Tensor, ...]") -> "tuple[Tensor, ...]":
        prediction = output[0]
        if acts:
            negative, positive = prediction.chunk(2)
            prediction = negative + scale * (positive - negative)
            if rescale > 0:
                prediction = rescale_noise_cfg(prediction, positive, guidance_rescale=rescale)
        return (torch.cat([prediction, prediction]), *output[1:])

    hooks = [
        denoiser.register_forward_pre_hook(before, with_kwargs=True, prepend=True),
        denoiser.register_forward_hook(after),
    ]
    try:
        yield switch
    finally:
        for hook in hooks:
            hook.remove()
