"""Which networks of a LoRA file stand beside which layers of a base; those that do not fit are refused.

Elsewhere a LoRA of another family loads silently as nothing, or in part: here every name and shape is checked before a
weight is loaded. Knows nothing of files.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from engine import families
from engine.errors import BadLora
from engine.families import Base
from engine.lora.names import by_flat_name, flat, layers_of, swapped_layers
from engine.lora.networks import DORA_SCALE, Shape, complete, fits, size_of
from engine.lora.origins import TITLES, made_for, text_width

_OTHER_KINDS = {"oft_": "OFT", ".a1.weight": "GLoRA", ".on_input": "IA3"}


@dataclass(frozen=True, kw_only=True)
class Match:
    """A network in a file: the layers of the base that it is for, one below the other, with the outputs of each, the
    shape of all of them as one weight, and the names of the file's tensors by role. `swapped` says that the file has
    the two halves of the outputs the other way round."""

    layers: tuple[str, ...]
    sizes: tuple[int, ...]
    shape: Shape
    keys: dict[str, str]
    swapped: bool


def match(title: str, shapes: Mapping[str, Shape], base: Base) -> list[Match]:
    """Every network of the file.

    Tensors that belong to no network, such as embeddings that came along, are left out. Raises: BadLora.
    """
    found = {layer: keys for layer, keys in layers_of(shapes).items() if complete(keys)}
    networks = {layer: {role: shapes[key] for role, key in keys.items()} for layer, keys in found.items()}
    base_layers = families.family(base.family).layers(base)
    names = by_flat_name(base_layers, base.spec.original_layers)
    swapped = {flat(f"unet.{name}") for name in swapped_layers(base_layers, base.spec.original_layers)}
    if base.spec.denoiser == "unet":  # where a part of another family's LoRA may fit
        _refuse_other_family(title, networks, base, base_layers)
    matched: list[Match] = []
    for layer, network_shapes in networks.items():
        if layer not in names:
            _refuse_other_family(title, networks, base, base_layers)
            raise misfit(title, base, f"it has a layer {layer}, which the base lacks")
        of_base = [base_layers[name] for name in names[layer]]
        sizes = tuple(shape[0] for shape in of_base)
        shape = (sum(sizes), *of_base[0][1:])
        if not fits(network_shapes, shape):
            _refuse_other_family(title, networks, base, base_layers)
            raise misfit(title, base, f"its layer {names[layer][0]} has another size")
        scale = network_shapes.get(DORA_SCALE, shape)
        if len(sizes) > 1 and math.prod(scale) != shape[0] and DORA_SCALE in network_shapes:
            raise BadLora(
                f"{title} is a DoRA whose magnitudes run through several layers of {base.title}.",
                "Choose a LoRA, or a DoRA with magnitudes of outputs.",
            )
        matched.append(
            Match(layers=names[layer], sizes=sizes, shape=shape, keys=found[layer], swapped=layer in swapped)
        )
    if not found:
        kind = next((kind for mark, kind in _OTHER_KINDS.items() if any(mark in key for key in shapes)), None)
        if kind:
            raise BadLora(f"{title} is a {kind}, which cannot be used here.", "Choose a LoRA, DoRA, LoHa or LoKr.")
        raise BadLora(f"{title} holds no LoRA layers.", "Choose the .safetensors file of a LoRA.")
    return matched


def _refuse_other_family(
    title: str, networks: Mapping[str, Mapping[str, Shape]], base: Base, base_layers: Mapping[str, Shape]
) -> None:
    """Raises: BadLora."""
    sizes = {layer: size for layer, shapes in networks.items() if (size := size_of(shapes))}
    base_sizes = {flat(layer): (shape[0], math.prod(shape[1:])) for layer, shape in base_layers.items()}
    maker, width, base_width = made_for(sizes), text_width(sizes), text_width(base_sizes)
    other_width = width is not None and base_width is not None and width != base_width
    # A base of its family may look like one of another, as a small one with the deep attention of a large one does
    if other_width or maker not in (None, base.family, made_for(base_sizes)):
        reason = f"it was made for {TITLES.get(maker or '', 'another base')}"
        raise misfit(
            title, base, f"{reason}, whose text is {width} wide instead of {base_width}" if other_width else reason
        )


def misfit(title: str, base: Base, reason: str) -> BadLora:
    """The refusal of a LoRA that is not for `base`."""
    return BadLora(f"{title} does not fit the base {base.title}: {reason}.", f"Choose a LoRA made for {base.title}.")
