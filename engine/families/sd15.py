"""Stable Diffusion 1.5 and every base of its architecture: UNet, one CLIP text encoder, AutoencoderKL."""

from collections.abc import Sequence
from typing import Any

from engine.families.base import Base, FamilySpec
from engine.families.components import Embeds
from engine.families.unet import UNetFamily

SPEC = FamilySpec(
    name="sd15",
    title="Stable Diffusion 1.5",
    pipeline="StableDiffusionPipeline",
    img2img="StableDiffusionImg2ImgPipeline",
    inpaint="StableDiffusionInpaintPipeline",
    text_encoders={"text_encoder": "CLIPTextModel"},
    trained_text_encoders=("text_encoder",),
    checkpoint=(
        "model.diffusion_model.input_blocks.0.0.weight",
        "first_stage_model.decoder.conv_in.weight",
        "cond_stage_model.transformer.text_model.",
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
    style_blocks={"style": ("up_blocks.1",), "layout": ("down_blocks.2", "mid_block")},
    modelspec_architecture="stable-diffusion-v1/lora",
    ss_base_model_version="sd_v1",
)


def base() -> Base:
    """Stable Diffusion 1.5 with the ControlNets and the IP-Adapter made for it, by name from the Hub."""
    return Base(
        name="sd15",
        title="Stable Diffusion 1.5",
        spec=SPEC,
        source="stable-diffusion-v1-5/stable-diffusion-v1-5",
        default_size_px=512,
        default_steps=25,
        default_guidance=7.5,
        variant="fp16",
        controlnets={
            "canny": "lllyasviel/control_v11p_sd15_canny",
            "openpose": "lllyasviel/control_v11p_sd15_openpose",
            "depth": "lllyasviel/control_v11f1p_sd15_depth",
            "segmentation": "lllyasviel/control_v11p_sd15_seg",
            "normal": "lllyasviel/control_v11p_sd15_normalbae",
            "softedge": "lllyasviel/control_v11p_sd15_softedge",
            "lines": "lllyasviel/control_v11p_sd15_mlsd",
            "scribble": "lllyasviel/control_v11p_sd15_scribble",
            "lineart": "lllyasviel/control_v11p_sd15_lineart",
        },
        normals_point_left=True,
        ip_adapter="h94/IP-Adapter/models/ip-adapter_sd15.safetensors",
    )


class StableDiffusion15(UNetFamily):
    def encode(self, pipeline: Any, texts: Sequence[str | None]) -> Embeds:
        embeds, _ = pipeline.encode_prompt([text or "" for text in texts], pipeline.device, 1, False)
        return {"prompt_embeds": embeds}


FAMILY = StableDiffusion15(
    spec=SPEC, options={"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
)
