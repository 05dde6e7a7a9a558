"""Which family of bases a LoRA file was made for, told by its layers. Knows nothing of the base it is wanted for."""

import re
from collections.abc import Mapping

from engine.lora.networks import Shape

TITLES = {
    "sd15": "Stable Diffusion 1.5",
    "sd2": "Stable Diffusion 2",
    "sdxl": "Stable Diffusion XL",
    "sd3": "Stable Diffusion 3",
    "flux": "Flux",
    "flux2": "Flux.2",
    "qwen_image": "Qwen-Image",
    "z_image": "Z-Image",
}

# The first that is found in the flat name of any layer tells. Stable Diffusion 3 has all text encoders of XL, and more.
_SIGNS = {
    "flux2": r"_to_qkv_mlp_proj$|_stream_modulation_",
    "flux": r"_(double_blocks|single_blocks|single_transformer_blocks)_\d",
    "sd3": r"_joint_blocks_\d|_transformer_blocks_\d+_ff_context_",
    "qwen_image": r"_transformer_blocks_\d+_(img|txt)_(mlp|mod)_",
    "z_image": r"_(noise|context)_refiner_\d|^(unet|transformer)_layers_\d+_(attention|feed_forward|adaLN_modulation)_",
    "sdxl": r"^text_encoder_2_|_(label_emb|add_embedding)_|_(attentions_\d|blocks?_\d(_1)?)_transformer_blocks_[1-9]",
}
# Flux.2 has Flux's names, but its MLPs are gated: so many times as many outputs as inputs
_GATED = re.compile(r"_double_blocks_\d+_(?:img|txt)_mlp_0|_single_blocks_\d+_linear1")
_GATED_RATIOS = (6, 9)
_SIGNS_OF_ATTENTION = re.compile(r"(?:unet|transformer)_transformer_blocks_(\d+)_attn_(?:to|add)_[qkv](?:_proj)?")
_FAMILY_OF_JOINT_WIDTH = {1536: "sd3", 2432: "sd3", 3072: "flux", 4096: "flux2", 6144: "flux2"}
_FLUX_JOINT_BLOCKS = 19
_FAMILY_OF_TEXT_WIDTH = {768: "sd15", 1024: "sd2", 2048: "sdxl"}


def made_for(sizes: Mapping[str, Shape]) -> str | None:
    """The family, as `TITLES` has it, of a LoRA with networks of these (out, in) sizes by flat layer name."""
    if any(_GATED.search(layer) and out in [n * width for n in _GATED_RATIOS] for layer, (out, width) in sizes.items()):
        return "flux2"
    for family, sign in _SIGNS.items():
        if any(re.search(sign, layer) for layer in sizes):
            return family
    joint = {int(match[1]): sizes[layer] for layer in sizes if (match := _SIGNS_OF_ATTENTION.fullmatch(layer))}
    if joint:  # transformers of text and picture together, whose attention is called alike
        family = _FAMILY_OF_JOINT_WIDTH.get(next(iter(joint.values()))[1])
        # Qwen-Image is as wide as Flux, but has 60 such blocks
        return "qwen_image" if family == "flux" and max(joint) >= _FLUX_JOINT_BLOCKS else family
    return _FAMILY_OF_TEXT_WIDTH.get(text_width(sizes) or 0)


def text_width(sizes: Mapping[str, Shape]) -> int | None:
    """How wide the text is that cross-attention looks at: the inputs of its keys."""
    return next((size[1] for layer, size in sizes.items() if layer.endswith("_attn2_to_k")), None)
