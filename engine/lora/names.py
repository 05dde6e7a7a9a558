"""How the tensors of a LoRA file are called: which layer of the base, and which role in the layer's network.

Every program has its own way. kohya's and LyCORIS's names cannot be taken apart again, for they have "_" for ".": so
layers are compared in that form (`flat`), and found under the names that diffusers and that a family's first code
(which ComfyUI and kohya still use) give them. That code may have in one layer what diffusers has in several, such as
queries, keys and values. Knows nothing of tensors.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal

from engine.lora.networks import DORA_SCALE, MAGNITUDE_VECTOR, ROLES, Shape

LoraFormat = Literal["kohya", "diffusers", "comfyui"]

TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")

_OTHER_ROLES = {
    **{"lora_A": "lora_down", "lora_B": "lora_up"},  # peft, diffusers
    **{"lora.down": "lora_down", "lora.up": "lora_up"},  # diffusers before peft
    **{"lora_linear_layer.down": "lora_down", "lora_linear_layer.up": "lora_up"},
}
_KEY = re.compile(
    rf"(?P<layer>.+?)[._](?P<role>{'|'.join(map(re.escape, (*_OTHER_ROLES, *ROLES)))})(?:\.default)?(?:\.weight)?"
)

# How a layer's name begins, by part of the base: kohya and LyCORIS; diffusers and peft; ComfyUI.
_PREFIXES = {
    "text_encoder_3": r"lora_te3_|text_encoder_3\.|text_encoders\.t5xxl\.transformer\.",
    "text_encoder_2": r"lora_te2_|text_encoder_2\.|text_encoders\.clip_g\.transformer\.",
    "text_encoder": r"lora_te1?_|text_encoder\.|text_encoders\.clip_l\.transformer\.",
    "transformer": r"lora_transformer_|transformer\.",
    "unet": r"lora_unet_|lycoris_|unet\.|base_model\.model\.|diffusion_model\.|",
}
_LAYER = re.compile("|".join(f"(?P<{part}>{prefix})" for part, prefix in _PREFIXES.items()))

# XLabs's LoRAs for Flux hang on the attention of a block: the first on the picture's, the second on the text's
_XLABS = tuple(
    (re.compile(rf"(double_blocks\.\d+)\.processor\.(qkv|proj)_lora{n}\."), rf"\1.{side}_attn.\2.lora.")
    for n, side in ((1, "img"), (2, "txt"))
)

_RESPELT = (
    # CLIP's text model lost its outer `text_model` in transformers 5
    (re.compile(r"^(text_encoder(?:_2)?)_text_model_"), r"\1_"),
    # diffusers before peft: attn1.processor.to_q_lora; self_attn.to_q_lora in the text encoder
    (re.compile(r"_processor_to_"), "_to_"),
    (re.compile(r"(_attn\d_to_out)$"), r"\1_0"),
    (re.compile(r"_self_attn_to_(q|k|v|out)$"), r"_self_attn_\1_proj"),
)


def parse(key: str) -> tuple[str, str] | None:
    """The layer, as `flat` gives it, and the role that a tensor's name stands for; None if it is none of a network."""
    for old, new in _XLABS:
        key = old.sub(new, key)
    match = _KEY.fullmatch(key)
    if match is None:
        return None
    prefix = _LAYER.match(match["layer"])
    assert prefix is not None  # none at all stands for the U-Net
    role = _OTHER_ROLES.get(match["role"], match["role"])
    return flat(f"{prefix.lastgroup}.{match['layer'][prefix.end() :]}"), role


def layers_of(keys: Iterable[str]) -> dict[str, dict[str, str]]:
    """Tensor names by layer, as `flat` gives it, and role."""
    found: dict[str, dict[str, str]] = {}
    for key in keys:
        if named := parse(key):
            layer, role = named
            found.setdefault(layer, {})[role] = key
    return found


def flat(layer: str) -> str:
    """A layer's name with "_" for ".", in today's spelling."""
    name = layer.replace(".", "_")
    for old, new in _RESPELT:
        name = old.sub(new, name)
    return name


def by_flat_name(
    layers: Collection[str], patterns: Mapping[str, Sequence[str]] = MappingProxyType({})
) -> dict[str, tuple[str, ...]]:
    """The layers of a base by every name that a file may have for them, as `flat` gives it: one, or those that the file
    has in one, from its first output to its last. `patterns` are `FamilySpec.original_layers`."""
    names = {flat(f"unet.{name}"): (layer,) for layer, name in original_names(layers).items()}
    names |= {flat(f"unet.{name}"): parts for name, parts in joint_layers(layers, patterns).items()}
    for layer in layers:
        part, _, module = layer.partition(".")
        if part == "transformer":
            names[flat(f"unet.{module}")] = (layer,)
        if part == "text_encoder_2" and module.startswith(_IN_T5):  # the third of those that kohya counts
            names[flat(f"text_encoder_3.{module}")] = (layer,)
        names[flat(layer)] = (layer,)
    return names


_IN_T5 = "encoder.block."


def joint_layers(layers: Collection[str], patterns: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """What the first code of a transformer calls its layers, each with those of diffusers that it holds; empty for
    U-Nets."""
    found: dict[str, tuple[str, ...]] = {}
    for original, parts in patterns.items():
        names = [f"transformer.{part}" for part in parts]
        sign = re.compile(re.escape(names[0]).replace(r"\{\}", r"(\d+)"))
        for match in filter(None, map(sign.fullmatch, layers)):
            found[original.format(*match.groups())] = tuple(name.format(*match.groups()) for name in names)
    return found


_SCALE_AND_SHIFT = (".norm_out.linear", ".norm1_context.linear")


def swapped_layers(layers: Mapping[str, Shape], patterns: Mapping[str, Sequence[str]]) -> set[str]:
    """Those that `joint_layers` finds whose outputs, shift and scale, diffusers has the other way round, in its
    `AdaLayerNormContinuous`: at the end of most transformers, and in the last block of Stable Diffusion 3."""
    return {
        original
        for original, (first, *_) in joint_layers(layers, patterns).items()
        if first.endswith(_SCALE_AND_SHIFT) and layers[first][0] == 2 * layers[first][1]
    }


_IN_RESNET = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_OUTSIDE_BLOCKS = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_MIDDLE = {"resnets.0": "middle_block.0", "attentions.0": "middle_block.1", "resnets.1": "middle_block.2"}
_BLOCK = re.compile(r"unet\.(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_MIDDLE_BLOCK = re.compile(r"unet\.mid_block\.(\w+\.\d+)\.(.+)")


def original_names(layers: Collection[str]) -> dict[str, str]:
    """What Stable Diffusion's first code calls the layers of a U-Net, by diffusers' names; empty for other denoisers.

    There `input_blocks` and `output_blocks` count through: one for every resnet with the attention after it, and one
    for every downsampler; an upsampler shares the block of the resnet before it.
    """
    blocks = {layer: match.groups() for layer in layers if (match := _BLOCK.fullmatch(layer))}
    resnets: dict[tuple[str, int], int] = {}
    for side, block, module, number, _ in blocks.values():
        if module == "resnets":
            at = (side, int(block))
            resnets[at] = max(resnets.get(at, 0), int(number) + 1)
    with_attention = {(side, int(block)) for side, block, module, _, _ in blocks.values() if module == "attentions"}

    def before(side: str, block: int) -> int:
        """The blocks that come before: `conv_in` counts as one, and so does every downsampler."""
        extra = 1 if side == "down" else 0
        return extra + sum(count + extra for (other, n), count in resnets.items() if other == side and n < block)

    names = {}
    for layer, (side, block_text, module, number, inner) in blocks.items():
        block = int(block_text)
        first, last = before(side, block), before(side, block) + resnets[side, block]
        names[layer] = {
            "resnets": f"{_outer(side)}.{first + int(number)}.0.{_IN_RESNET.get(inner, inner)}",
            "attentions": f"{_outer(side)}.{first + int(number)}.1.{inner}",
            "downsamplers": f"input_blocks.{last}.0.op",
            "upsamplers": f"output_blocks.{last - 1}.{2 if (side, block) in with_attention else 1}.conv",
        }[module]
    for layer in layers if blocks else ():
        if outside := _OUTSIDE_BLOCKS.get(layer.removeprefix("unet.")):
            names[layer] = outside
        elif match := _MIDDLE_BLOCK.fullmatch(layer):
            names[layer] = f"{_MIDDLE[match[1]]}.{_IN_RESNET.get(match[2], match[2])}"
    return names


def _outer(side: str) -> str:
    return "input_blocks" if side == "down" else "output_blocks"


def tensor_names(format: LoraFormat, layers: Collection[str]) -> Callable[[str, str], str]:
    """How a format calls the tensor of a (layer, role) of the base with these layers."""
    prefix, roles = _WRITERS[format]
    originals = original_names(layers)
    two_encoders = any(layer.startswith("text_encoder_2.") for layer in layers)

    def name(layer: str, role: str) -> str:
        return f"{prefix(layer, originals, two_encoders)}.{roles.get(role, role)}"

    return name


def _kohya(layer: str, originals: Mapping[str, str], two_encoders: bool) -> str:
    """As sd-scripts writes it, which trains SDXL, with its two text encoders, on Stable Diffusion's first U-Net."""
    part, _, module = layer.partition(".")
    if part in TEXT_ENCODERS:
        number = 3 if module.startswith(_IN_T5) else TEXT_ENCODERS.index(part) + 1 if two_encoders else ""
        return f"lora_te{number}_{_in_text_model(module).replace('.', '_')}"
    name = originals.get(layer, module) if two_encoders else module
    return f"lora_unet_{name.replace('.', '_')}"


def _diffusers(layer: str, originals: Mapping[str, str], two_encoders: bool) -> str:
    """Of text encoders as every version of diffusers reads it, and ComfyUI."""
    part, _, module = layer.partition(".")
    return f"{part}.{_in_text_model(module)}" if part in TEXT_ENCODERS else layer


def _comfyui(layer: str, originals: Mapping[str, str], two_encoders: bool) -> str:
    """The names of ComfyUI's own modules."""
    part, _, module = layer.partition(".")
    if part in TEXT_ENCODERS:
        encoder = "t5xxl" if module.startswith(_IN_T5) else f"clip_{'lg'[TEXT_ENCODERS.index(part)]}"
        return f"text_encoders.{encoder}.transformer.{_in_text_model(module)}"
    return f"diffusion_model.{originals.get(layer, module)}"


def _in_text_model(module: str) -> str:
    """The module's name before transformers 5, which other programs still go by."""
    return f"text_model.{module}" if module.startswith("encoder.layers.") else module


_LYCORIS_ROLES = {"lora_down": "lora_down.weight", "lora_up": "lora_up.weight"}
_PEFT_ROLES = {"lora_down": "lora_A.weight", "lora_up": "lora_B.weight", DORA_SCALE: MAGNITUDE_VECTOR}

_WRITERS: dict[LoraFormat, tuple[Callable[[str, Mapping[str, str], bool], str], Mapping[str, str]]] = {
    "kohya": (_kohya, _LYCORIS_ROLES),
    "diffusers": (_diffusers, _PEFT_ROLES),
    "comfyui": (_comfyui, _LYCORIS_ROLES),
}
