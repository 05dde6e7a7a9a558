"""ControlNets beside a denoiser: what they add goes to its own layers, as in Zhang et al., arXiv 2302.05543.

A hook before the denoiser runs them on the same input and hands over what they add, so that any pipeline of the base
can be steered. diffusers' own pipelines with ControlNets do the same arithmetic, but the one of Stable Diffusion has no
`guidance_rescale`, and all run a ControlNet also in the steps where it does not count. Knows nothing of detectors or
files, and leaves to each family how its ControlNets are called.

A control that is guided acts on the positive half of classifier-free guidance alone: u + w (c(map) - u) takes the map
as far as the prompt, where otherwise both halves have it and w strengthens the prompt only. It is what `guess_mode` of
diffusers and "ControlNet is more important" of sd-webui-controlnet do, without their weaker outer layers.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.adapters.halves import GUIDED, beside_nothing, positive
from engine.adapters.window import within
from engine.families.components import Components, Conditioned

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Generator, Tensor

    Residuals = dict[str, Tensor | list[Tensor]]


@dataclass(frozen=True, kw_only=True)
class Control:
    """A loaded ControlNet with its map, which has the size of the picture; how strongly, and during which part of the
    steps it acts; whether it is `guided`. `kind` tells a ControlNet for several kinds which one it is."""

    controlnet: Any
    image: "Image"
    kind: str = ""
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0
    guided: bool = False


class Controls:
    """The controls of a picture, as `attach_controls` lets them act."""

    def __init__(self, parts: Components, controls: Sequence[Control]) -> None:
        self.parts, self.controls = parts, controls
        self.conditioned: list[Conditioned] = []
        self.acts = [True] * len(controls)
        self._seen: tuple[Any, Residuals] = (None, {})

    def begin(self, generator: "Generator") -> None:
        """Before every picture: read the maps. What is random in that comes from the picture's own generator."""
        import torch

        self._seen = (None, {})
        second = torch.Generator("cpu").manual_seed(generator.initial_seed())
        with torch.no_grad():
            self.conditioned = [
                Conditioned(
                    controlnet=control.controlnet,
                    condition=self.parts.condition(control.controlnet, control.image, generator, second),
                    kind=control.kind,
                    strength=control.strength,
                )
                for control in self.controls
            ]

    def switch(self, step: int, total: int) -> None:
        self.acts = [within(step, total, control.start, control.end) for control in self.controls]

    def steer(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The hook before the denoiser. Where guidance calls it twice for the same latents, with the prompt and then
        with the negative one, both get what the ControlNets say to the prompt, as diffusers does it."""
        latents = args[0] if args else kwargs["hidden_states"]
        if latents is not self._seen[0]:
            self._seen = latents, self._residuals(args, kwargs)
        return args, kwargs | self._seen[1]

    def _residuals(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> "Residuals":
        total: Residuals = {}
        for control, conditioned, acts in zip(self.controls, self.conditioned, self.acts, strict=True):
            if acts and control.strength != 0:
                residuals = self._guided if control.guided else self.parts.residuals
                for name, residual in residuals(conditioned, args, kwargs).items():
                    total[name] = _sum(total[name], residual) if name in total else residual
        return total

    def _guided(self, control: Conditioned, args: tuple[Any, ...], kwargs: dict[str, Any]) -> "Residuals":
        size = len(args[0] if args else kwargs["hidden_states"])
        if size != GUIDED:
            return self.parts.residuals(control, args, kwargs)
        added = self.parts.residuals(control, positive(args, size), positive(kwargs, size))
        return {name: beside_nothing(residual) for name, residual in added.items()}


def _sum(one: Any, other: Any) -> Any:
    if isinstance(one, dict):  # by block
        return {block: one.get(block, 0) + other.get(block, 0) for block in one | other}
    return [a + b for a, b in zip(one, other, strict=True)] if isinstance(one, list) else one + other


@contextmanager
def attach_controls(parts: Components, controls: Sequence[Control]) -> Iterator[Controls]:
    """Let the ControlNets steer the denoiser in the body, from where they `begin`."""
    attached = Controls(parts, controls)
    hook = parts.denoiser.register_forward_pre_hook(attached.steer, with_kwargs=True)
    try:
        yield attached
    finally:
        hook.remove()
