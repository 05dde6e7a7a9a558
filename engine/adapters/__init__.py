"""What attaches to a base and detaches without a trace: LoRAs, ControlNets and style references.

Making one touches nothing; `attach` lets them act in its body and leaves the base exactly as it was, also when the body
raises. Knows nothing of settings, workspaces or caches.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.adapters.controlnet import Control, attach_controls
from engine.adapters.ip_adapter import Style, attach_styles
from engine.adapters.lora import Lora, attach_loras
from engine.adapters.window import Switch
from engine.families.components import Components

if TYPE_CHECKING:
    from torch import Generator, Tensor

    Beginning = Callable[[Generator], None]

__all__ = ["Attached", "Control", "Lora", "Style", "attach"]


@dataclass(frozen=True, kw_only=True)
class Attached:
    """What a run of the pipeline needs to know: what to do before it and before every step, and the embeddings of the
    references."""

    beginnings: "tuple[Beginning, ...]" = ()
    switches: tuple[Switch, ...] = ()
    style_embeddings: "tuple[Tensor, ...]" = ()

    def begin(self, generator: "Generator") -> None:
        """Before every picture, with the generator that its noise will come from."""
        for begin in self.beginnings:
            begin(generator)

    def before_step(self, step: int, total: int) -> None:
        """Turn on and off what is limited to a part of the steps. Steps are counted from 0."""
        for switch in self.switches:
            switch(step, total)


@contextmanager
def attach(
    parts: Components,
    *,
    loras: Sequence[Lora] = (),
    controls: Sequence[Control] = (),
    styles: Sequence[Style] = (),
    in_slots: bool = False,
) -> Iterator[Attached]:
    """Attach to the base for the length of the body. `in_slots`, so that blocks may be compiled; see `attach_loras`."""
    with ExitStack() as stack:
        switches: list[Switch] = []
        beginnings: list[Beginning] = []
        if loras:
            switches.append(stack.enter_context(attach_loras(parts, loras, in_slots=in_slots)))
        if controls:
            steering = stack.enter_context(attach_controls(parts, controls))
            beginnings.append(steering.begin)
            switches.append(steering.switch)
        if styles:
            switches.append(stack.enter_context(attach_styles(parts, styles)))
        yield Attached(
            beginnings=tuple(beginnings),
            switches=tuple(switches),
            style_embeddings=tuple(style.embedding for style in styles),
        )
