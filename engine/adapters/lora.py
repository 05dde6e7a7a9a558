"""LoRAs beside the layers of a base: y = W x + sum_i D_i x, with D_i as `engine.lora.networks` defines it.

The arithmetic of LoRA and DoRA is peft's, operation by operation, so that a stack gives the picture that
`load_lora_weights` and `set_adapters` give. Other networks are multiplied out when they are attached. The layers stay
as they are: a hook adds to what they return, which takes no time to attach (peft takes 0.1 s and more to wrap the
layers of a small UNet) and leaves nothing behind. In compiled blocks, which do not see hooks, all that stand beside a
layer are put together in one slot. Knows nothing of files or pipelines.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.adapters.compiled import repeated_blocks
from engine.adapters.slot import filled_up, in_slot
from engine.adapters.window import Switch, within
from engine.families.components import Components
from engine.lora.files import LoraFile
from engine.lora.names import TEXT_ENCODERS
from engine.lora.networks import Network

if TYPE_CHECKING:
    from torch import Tensor

    Adding = Callable[[Tensor, Tensor], Tensor]
    """From what a layer gets and what it returns to what it shall return."""
    Acting = Callable[[Sequence[bool]], None]
    """Says of each of a stack whether it acts."""


@dataclass(frozen=True, kw_only=True)
class Lora:
    """One LoRA of a stack: how strongly it acts, and during which part of the steps. What it does to the text encoder
    it does throughout, since the prompt is encoded once."""

    file: LoraFile
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0


@contextmanager
def attach_loras(parts: Components, loras: Sequence[Lora], *, in_slots: bool = False) -> Iterator[Switch]:
    """Let the LoRAs act in the body. Yields what switches them with the steps. `in_slots`, those inside blocks that may
    be compiled do so without hooks."""
    stacks: dict[str, list[tuple[Lora, Network]]] = {}
    for lora in (lora for lora in loras if lora.weight != 0):
        for name, network in lora.file.layers.items():
            stacks.setdefault(name, []).append((lora, network))
    in_denoiser: list[tuple[list[tuple[Lora, Network]], Acting]] = []

    def switch(step: int, total: int) -> None:
        for stack, let_act in in_denoiser:
            let_act([within(step, total, lora.start, lora.end) for lora, _ in stack])

    blocks = tuple(f"{block}." for block in repeated_blocks(parts.denoiser)) if in_slots else ()
    with ExitStack() as attached:
        for name, stack in stacks.items():
            part, _, module = name.partition(".")
            is_text = part in TEXT_ENCODERS
            attach = _attached_in_slot if module.startswith(blocks) and not is_text else _attached_by_hooks
            let_act = attached.enter_context(attach(getattr(parts, part), module, stack))
            if not is_text:
                in_denoiser.append((stack, let_act))
        yield switch


@contextmanager
def _attached_by_hooks(model: Any, name: str, stack: "Sequence[tuple[Lora, Network]]") -> "Iterator[Acting]":
    layer = model.get_submodule(name)
    besides = [_Beside(_adding(network, layer, lora.weight)) for lora, network in stack]

    def let_act(acts: Sequence[bool]) -> None:
        for beside, now in zip(besides, acts, strict=True):
            beside.acts = now

    with ExitStack() as hooks:
        for beside in besides:
            hooks.callback(layer.register_forward_hook(beside).remove)
        yield let_act


class _Beside:
    """The hook that adds what a network does to what its layer returns."""

    def __init__(self, adding: "Adding") -> None:
        self.adding = adding
        self.acts = True

    def __call__(self, layer: Any, inputs: "tuple[Tensor, ...]", output: "Tensor") -> "Tensor | None":
        return self.adding(inputs[0], output) if self.acts else None


@contextmanager
def _attached_in_slot(model: Any, name: str, stack: "Sequence[tuple[Lora, Network]]") -> "Iterator[Acting]":
    layer = model.get_submodule(name)
    is_narrow = all(network.kind == "LoRA" and network.magnitude is None for _, network in stack)
    together = _narrow if is_narrow else _whole
    acting = [True] * len(stack)
    with in_slot(model, name, *together(layer, stack, acting)) as slot:

        def let_act(acts: Sequence[bool]) -> None:
            if acts != acting:
                acting[:] = acts
                slot.up.copy_(together(layer, stack, acting)[1])

        yield let_act


def _narrow(
    layer: Any, stack: "Sequence[tuple[Lora, Network]]", acting: Sequence[bool]
) -> "tuple[Tensor | None, Tensor]":
    """One LoRA that does what those that act do together."""
    import torch
    from peft.utils.integrations import dequantize_module_weight

    weight = dequantize_module_weight(layer)
    halves = [_halves(network, weight, lora.weight) for lora, network in stack]
    ups = [up * scale * acts for (_, up, scale), acts in zip(halves, acting, strict=True)]
    return filled_up(torch.cat([down for down, _, _ in halves]), torch.cat(ups, dim=1))


def _whole(
    layer: Any, stack: "Sequence[tuple[Lora, Network]]", acting: Sequence[bool]
) -> "tuple[Tensor | None, Tensor]":
    """The change to the weight that those that act make together: what they do to each of the layer's inputs."""
    import torch
    from peft.utils.integrations import dequantize_module_weight

    weight = dequantize_module_weight(layer)
    bias = 0 if layer.bias is None else layer.bias.float()
    inputs = torch.eye(weight.shape[1], device=weight.device)
    before = output = weight.float().T + bias
    for (lora, network), acts in zip(stack, acting, strict=True):
        output = _adding(network, layer, lora.weight)(inputs, output) if acts else output
    return None, (output - before).T.to(weight.dtype).contiguous()


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
