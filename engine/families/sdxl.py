"""Stable Diffusion XL and every base of its architecture (arXiv 2307.01952).

The UNet looks at the second-to-last layers of two CLIP text encoders side by side. Beside the time it is told the
second encoder's summary of the text (pooled), and the size, crop and target size of the picture.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.families.base import Base, FamilySpec
from engine.families.components import Conditioned, Embeds
from engine.families.unet import UNetComponents, UNetFamily

if TYPE_CHECKING:
    from torch import Tensor

SPEC = FamilySpec(
    name="sdxl",
    title="Stable Diffusion XL",
    pipeline="StableDiffusionXLPipeline",
    img2img="StableDiffusionXLImg2ImgPipeline",
    inpaint="StableDiffusionXLInpaintPipeline",
    text_encoders={"text_encoder": "CLIPTextModel", "text_encoder_2": "CLIPTextModelWithProjection"},
    trained_text_encoders=("text_encoder", "text_encoder_2"),
    checkpoint=(
        "model.diffusion_model.input_blocks.0.0.weight",
        "model.diffusion_model.label_emb.",
        "first_stage_model.decoder.conv_in.weight",
        "conditioner.embedders.0.transformer.text_model.",
        "conditioner.embedders.1.model.",
    ),
    vae_scale=8,
    lora_targets=("to_k", "to_q", "to_v", "to_out.0"),
    supports=frozenset(
        {
            *("controlnet", "control_modes", "ip_adapter", "style_masks"),
            *("negative_prompt", "guidance_interval", "compiled_blocks"),
        }
    ),
    style_targets=("all", "style", "layout"),
    style_blocks={"style": ("up_blocks.0.attentions.1",), "layout": ("down_blocks.2.attentions.1",)},
    modelspec_architecture="stable-diffusion-xl-v1-base/lora",
    ss_base_model_version="sdxl_base_v1-0",
)


CONTROL_TYPES = {
    **{"openpose": 0, "depth": 1, "softedge": 2, "scribble": 2},
    **{"canny": 3, "lineart": 3, "lines": 3, "normal": 4, "segmentation": 5},
}
"""How ControlNets for several kinds of maps call them: https://github.com/xinsir6/ControlNetPlus."""


@dataclass(kw_only=True)
class SDXLComponents(UNetComponents):
    """With the second text encoder, and whether no text is embedded as zeros (else as an empty text)."""

    text_encoder_2: Any
    tokenizer_2: Any
    force_zeros_for_empty_prompt: bool

    def shown(self, control: Conditioned, condition: "Tensor") -> dict[str, Any]:
        count = control.controlnet.config.get("num_control_type")
        if count is None:
            return super().shown(control, condition)
        control_type = CONTROL_TYPES[control.kind]
        types = condition.new_zeros(len(condition), count)
        types[:, control_type] = 1
        return {"controlnet_cond": [condition], "control_type": types, "control_type_idx": [control_type]}


def base() -> Base:
    """SDXL base 1.0 with ControlNets and the IP-Adapter made for it, by name from the Hub."""
    union = "xinsir/controlnet-union-sdxl-1.0"
    return Base(
        name="sdxl",
        title="Stable Diffusion XL",
        spec=SPEC,
        source="stabilityai/stable-diffusion-xl-base-1.0",
        default_size_px=1024,
        default_steps=30,
        default_guidance=6.0,
        variant="fp16",
        controlnets={
            "canny": "diffusers/controlnet-canny-sdxl-1.0",
            "depth": "diffusers/controlnet-depth-sdxl-1.0",
            "openpose": "xinsir/controlnet-openpose-sdxl-1.0",
            **dict.fromkeys(("normal", "segmentation", "softedge", "lines", "scribble", "lineart"), union),
        },
        ip_adapter="h94/IP-Adapter/sdxl_models/ip-adapter_sdxl.safetensors",
    )


class StableDiffusionXL(UNetFamily):
    def controlnet_class(self, config: Mapping[str, Any]) -> str:
        is_for_several = "num_control_type" in config or "Union" in config["_class_name"]
        return "ControlNetUnionModel" if is_for_several else self.controlnet

    def encode(self, pipeline: Any, texts: Sequence[str | None]) -> Embeds:
        import torch

        embeds, _, pooled, _ = pipeline.encode_prompt([text or "" for text in texts], None, pipeline.device, 1, False)
        if pipeline.config.force_zeros_for_empty_prompt:
            absent = torch.tensor([text is None for text in texts], device=embeds.device)
            embeds, pooled = embeds.masked_fill(absent[:, None, None], 0), pooled.masked_fill(absent[:, None], 0)
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}

    def added_conditions(self, embeds: Embeds, sizes: "Tensor") -> Embeds:
        return {"text_embeds": embeds["pooled_prompt_embeds"], "time_ids": sizes.to(embeds["prompt_embeds"])}


FAMILY = StableDiffusionXL(spec=SPEC, parts=SDXLComponents, options={"add_watermarker": False})
