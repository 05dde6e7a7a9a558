"""Z-Image of Tongyi-MAI, and its Turbo (arXiv 2511.22699).

Text, as the language model Qwen3 sees it, and picture go through all blocks as one row of tokens. Time runs from noise
at 0 to the picture at 1, and what the transformer says points that way. Every picture of a batch is called with by
itself, in a list, as is every text, which is as long as it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.families.base import Base, FamilySpec
from engine.families.components import Conditioned, Embeds
from engine.families.transformer import SCHEDULERS, TransformerComponents, TransformerFamily, padded, trimmed
from engine.settings import GenerateSettings

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor

MAX_TOKENS = 512
BLOCKS = ("layers", "noise_refiner", "context_refiner")

SPEC = FamilySpec(
    name="z_image",
    title="Z-Image",
    pipeline="ZImagePipeline",
    img2img="ZImageImg2ImgPipeline",
    inpaint="ZImageInpaintPipeline",
    denoiser="transformer",
    text_encoders={"text_encoder": "Qwen3Model"},
    checkpoint=("cap_embedder.1.weight", "layers.0.attention.qkv.weight", "noise_refiner.0."),
    vae_scale=8,
    side_step_px=16,
    precision="bfloat16",
    objective="flow",
    schedulers=SCHEDULERS,
    lora_targets=("to_k", "to_q", "to_v", "to_out.0"),
    supports=frozenset({"controlnet", "negative_prompt", "attention_kernels", "compiled_blocks", "attention_masks"}),
    style_targets=(),
    original_layers={
        **{f"{b}.{{}}.attention.qkv": tuple(f"{b}.{{}}.attention.to_{x}" for x in "qkv") for b in BLOCKS},
        **{f"{block}.{{}}.attention.out": (f"{block}.{{}}.attention.to_out.0",) for block in BLOCKS},
        "x_embedder": ("all_x_embedder.2-1",),
        "final_layer.adaLN_modulation.1": ("all_final_layer.2-1.adaLN_modulation.1",),
        "final_layer.linear": ("all_final_layer.2-1.linear",),
    },
    exports_original_layers=False,
    modelspec_architecture="z-image/lora",
    ss_base_model_version="zimage",
)


def turbo() -> Base:
    """Z-Image Turbo, distilled for nine steps without guidance, by name from the Hub, as is its ControlNet for several
    kinds of maps."""
    union = "hlky/Z-Image-Turbo-Fun-Controlnet-Union-2.1"  # that of alibaba-pai in diffusers' layout
    return Base(
        name="z_image_turbo",
        title="Z-Image Turbo",
        spec=SPEC,
        source="Tongyi-MAI/Z-Image-Turbo",
        default_size_px=1024,
        default_steps=9,
        default_guidance=1.0,
        controlnets=dict.fromkeys(("canny", "softedge", "depth", "openpose", "lines"), union),
    )


def base() -> Base:
    """Z-Image, which takes guidance."""
    return turbo().replace(
        name="z_image",
        title="Z-Image",
        source="Tongyi-MAI/Z-Image",
        default_steps=50,
        default_guidance=5.0,
        controlnets={},  # that of Turbo was distilled with it
    )


@dataclass(kw_only=True)
class ZImageComponents(TransformerComponents):
    def clean_latents(
        self, scheduler: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: tuple[Any, ...]
    ) -> "Tensor":
        pictures, times = args[:2]
        clean = pictures[0] + (1 - times[0]) * output[0][0]  # the first is that of the prompt
        return clean.movedim(1, 0)  # (c, frames, h, w) with one frame

    def condition(
        self, controlnet: Any, image: "Image", generator: "torch.Generator", second: "torch.Generator"
    ) -> "Tensor":
        import torch

        controlnet.from_transformer(controlnet, self.transformer)  # it goes by the first layers of its base
        pixels = self.map_pixels(image)
        latents = self.latents_of(pixels)
        missing = controlnet.config.control_in_dim - latents.shape[1]  # later ones take a mask besides
        nothing = latents.new_zeros(1, missing, *latents.shape[2:])
        return torch.cat([latents, nothing], dim=1).unsqueeze(2)

    def residuals(self, control: Conditioned, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> "dict[str, Any]":
        condition = control.condition.repeat(len(args[0]), 1, 1, 1, 1)
        return {"controlnet_block_samples": control.controlnet(*args, condition, conditioning_scale=control.strength)}


@dataclass(frozen=True, kw_only=True)
class ZImage(TransformerFamily):
    def encode(self, pipeline: Any, texts: Sequence[str | None]) -> Embeds:
        embeds, _ = pipeline.encode_prompt(
            [text or "" for text in texts], pipeline.device, do_classifier_free_guidance=False
        )
        return padded(embeds)

    def reads(self, pipeline: Any) -> tuple[Any, int]:
        return pipeline.tokenizer, MAX_TOKENS

    def arguments(self, settings: GenerateSettings, embeds: Embeds, styles: "Sequence[Tensor]") -> dict[str, Any]:
        """Its guidance counts from 0: that much is added to the prediction, where CFG counts from 1."""
        sides = ("", "negative_") if "negative_prompt_embeds" in embeds else ("",)
        return {f"{side}prompt_embeds": trimmed(embeds, side) for side in sides} | {
            "guidance_scale": settings.guidance_scale - 1
        }

    def predict(
        self, parts: ZImageComponents, noisy: "Tensor", timesteps: "Tensor", embeds: Embeds, sizes: "Tensor"
    ) -> "Tensor":
        import torch

        pictures = list(noisy.unsqueeze(2).unbind())
        towards_clean = parts.transformer(pictures, (1000 - timesteps) / 1000, trimmed(embeds), return_dict=False)[0]
        return -torch.stack(towards_clean).squeeze(2)


FAMILY = ZImage(spec=SPEC, parts=ZImageComponents, options={}, controlnet="ZImageControlNetModel")
