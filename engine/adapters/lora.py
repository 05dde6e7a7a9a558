"""LoRAs beside the layers of a base: y = W x + sum_i w_i (alpha_i / r_i) B_i A_i x (Hu et al., arXiv 2106.09685).

The arithmetic is peft's, operation by operation, so that a stack gives the picture that `load_lora_weights` and
`set_adapters` give. The layers stay as they are: a hook adds to what they return, which takes no time to attach (peft
takes 0.1 s and more to wrap the layers of a small UNet) and leaves nothing behind. Knows nothing of files or pipelines.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.adapters.window import Switch, within
from engine.families.base import Components
from engine.lora.files import LoraFile, LowRank

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Lora:
    """One LoRA of a stack: how strongly it acts, and during which part of the steps. What it does to the text encoder
    it does throughout, since the prompt is encoded once."""

    file: LoraFile
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0


@contextmanager
def attach_loras(parts: Components, loras: Sequence[Lora]) -> Iterator[Switch]:
    """Let the LoRAs act in the body. Yields what switches them with the steps."""
    in_unet: list[tuple[Lora, _Beside]] = []

    def switch(step: int, total: int) -> None:
        for lora, beside in in_unet:
            beside.weight = lora.weight if within(step, total, lora.start, lora.end) else 0.0

    with ExitStack() as hooks:
        for lora in loras:
            for name, low_rank in lora.file.layers.items():
                part, _, module = name.partition(".")
                layer = getattr(parts, part).get_submodule(module)
                beside = _Beside(low_rank.like(layer.weight), lora.weight)
                hooks.callback(layer.register_forward_hook(beside).remove)
                if part == "unet":
                    in_unet.append((lora, beside))
        yield switch


class _Beside:
    """The hook that adds w (alpha / r) B A x to what a layer returns for x."""

    def __init__(self, low_rank: LowRank, weight: float) -> None:
        self.low_rank = low_rank
        self.weight = weight

    def __call__(self, layer: Any, inputs: "tuple[Tensor, ...]", output: "Tensor") -> "Tensor | None":
        from torch.nn.functional import conv2d, linear

        if self.weight == 0:
            return None
        down, up, alpha = self.low_rank
        scale = self.weight * alpha / len(down)
        if down.ndim == 2:
            return output + linear(linear(inputs[0], down), up) * scale
        return output + conv2d(conv2d(inputs[0], down, None, layer.stride, layer.padding), up) * scale
