"""LoRAs beside the layers of a base: y = W x + sum_i D_i x, with D_i as `engine.lora.networks` defines it.

The arithmetic of LoRA and DoRA is peft's, operation by operation, so that a stack gives the picture that
`load_lora_weights` and `set_adapters` give. Other networks are multiplied out when they are attached. The layers stay
as they are: a hook adds to what they return, which takes no time to attach (peft takes 0.1 s and more to wrap the
layers of a small UNet) and leaves nothing behind. Knows nothing of files or pipelines.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.adapters.window import Switch, within
from engine.families.components import Components
from engine.lora.files import LoraFile
from engine.lora.names import TEXT_ENCODERS
from engine.lora.networks import Network

if TYPE_CHECKING:
    from torch import Tensor

    Adding = Callable[[Tensor, Tensor], Tensor]
    """From what a layer gets and what it returns to what it shall return."""


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
    in_denoiser: list[tuple[Lora, _Beside]] = []

    def switch(step: int, total: int) -> None:
        for lora, beside in in_denoiser:
            beside.acts = within(step, total, lora.start, lora.end)

    with ExitStack() as hooks:
        for lora in (lora for lora in loras if lora.weight != 0):
            for name, network in lora.file.layers.items():
                part, _, module = name.partition(".")
                layer = getattr(parts, part).get_submodule(module)
                beside = _Beside(_adding(network, layer, lora.weight))
                hooks.callback(layer.register_forward_hook(beside).remove)
                if part not in TEXT_ENCODERS:
                    in_denoiser.append((lora, beside))
        yield switch


class _Beside:
    """The hook that adds what a network does to what its layer returns."""

    def __init__(self, adding: "Adding") -> None:
        self.adding = adding
        self.acts = True

    def __call__(self, layer: Any, inputs: "tuple[Tensor, ...]", output: "Tensor") -> "Tensor | None":
        return self.adding(inputs[0], output) if self.acts else None


def _adding(network: Network, layer: Any, strength: float) -> "Adding":
    from peft.utils.integrations import dequantize_module_weight

    weight = dequantize_module_weight(layer)
    if network.kind == "LoRA" and network.magnitude is None:
        return _low_rank(network, layer, weight, strength)
    if network.kind == "LoRA" and network.magnitude is not None and len(network.magnitude) == len(weight):
        return _decomposed(network, layer, weight, strength)
    return _multiplied_out(network, layer, weight, strength)


def _low_rank(network: Network, layer: Any, weight: "Tensor", strength: float) -> "Adding":
    """(alpha / r) up down x."""
    down, up, scale = _halves(network, weight, strength)

    def add(x: "Tensor", output: "Tensor") -> "Tensor":
        return output + _apply(layer, x, down, up) * scale

    return add


def _decomposed(network: Network, layer: Any, weight: "Tensor", strength: float) -> "Adding":
    """DoRA with g = m / |W + D|, a factor of each output: (g - 1) W x + g D x."""
    down, up, scale = _halves(network, weight, strength)
    stretch = (-1, *(1 for _ in weight.shape[2:]))
    own_gain = network.gain(weight, strength).to(weight.dtype).reshape(stretch)

    def add(x: "Tensor", output: "Tensor") -> "Tensor":
        gain = own_gain.to(output)
        bias = 0 if layer.bias is None else layer.bias.to(output).reshape(stretch)
        return output + ((gain - 1) * (output - bias) + gain * _apply(layer, x, down, up) * scale)

    return add


def _multiplied_out(network: Network, layer: Any, weight: "Tensor", strength: float) -> "Adding":
    """D x, for a D that is no shorter in parts."""
    delta = network.delta(weight, strength).to(weight.dtype)

    def add(x: "Tensor", output: "Tensor") -> "Tensor":
        return output + _apply(layer, x, delta)

    return add


def _halves(network: Network, weight: "Tensor", strength: float) -> "tuple[Tensor, Tensor, float]":
    tensors = {role: tensor.to(weight) for role, tensor in network.tensors().items()}
    return tensors["lora_down"], tensors["lora_up"], strength * network.alpha / network.rank


def _apply(layer: Any, x: "Tensor", weight: "Tensor", up: "Tensor | None" = None) -> "Tensor":
    """`weight` in place of the layer's own, and then `up`, wherever `x` is: an offloaded layer was elsewhere before."""
    from torch.nn.functional import conv2d, linear

    weight, up = weight.to(x), None if up is None else up.to(x)
    if weight.ndim == 2:
        first = linear(x, weight)
        return first if up is None else linear(first, up)
    first = conv2d(x, weight, None, layer.stride, layer.padding, layer.dilation)
    return first if up is None else conv2d(first, up)
