"""Qwen-Image (arXiv 2508.02324).

Two streams, of picture and text, look at each other in every block; the language model Qwen2.5-VL reads the prompt.
Squares of 2 by 2 latent cells are one token ("packed"). The autoencoder is one of videos, of which a picture is a
frame. Guided predictions are scaled back to the length of those of the prompt.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.families.base import Base, FamilySpec
from engine.families.components import Components, Conditioned, Embeds
from engine.families.flux import pack, unpack
from engine.families.transformer import SCHEDULERS, TransformerComponents, TransformerFamily, padded, trimmed
from engine.settings import GenerateSettings, SchedulerName

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor

MAX_TOKENS = 1024

SPEC = FamilySpec(
    name="qwen_image",
    title="Qwen-Image",
    pipeline="QwenImagePipeline",
    img2img="QwenImageImg2ImgPipeline",
    inpaint="QwenImageInpaintPipeline",
    denoiser="transformer",
    text_encoders={"text_encoder": "Qwen2_5_VLForConditionalGeneration"},
    checkpoint=("transformer_blocks.0.img_mlp.net.0.proj.weight", "txt_norm.weight"),
    vae_scale=8,
    side_step_px=16,
    precision="bfloat16",
    objective="flow",
    schedulers=(*SCHEDULERS, "shift_3"),
    lora_targets=("to_k", "to_q", "to_v", "to_out.0"),
    supports=frozenset({"controlnet", "negative_prompt", "attention_kernels", "compiled_blocks"}),
    step_caches=("first_block",),
    style_targets=(),
    modelspec_architecture="qwen-image/lora",
    ss_base_model_version="qwen_image",
)


def base() -> Base:
    """Qwen-Image with a ControlNet for several kinds of maps, by name from the Hub."""
    union = "InstantX/Qwen-Image-ControlNet-Union"
    return Base(
        name="qwen_image",
        title="Qwen-Image",
        spec=SPEC,
        source="Qwen/Qwen-Image",
        default_size_px=1024,
        default_steps=50,
        default_guidance=4.0,
        controlnets=dict.fromkeys(("canny", "softedge", "depth", "openpose"), union),
    )


@dataclass(kw_only=True)
class QwenImageComponents(TransformerComponents):
    def latents_of(
        self, pixels: "Tensor", generator: "torch.Generator | None" = None, *, is_shifted: bool = True
    ) -> "Tensor":
        import torch
        from diffusers.utils.torch_utils import get_module_execution_device

        config = self.vae.config
        pixels = pixels.to(get_module_execution_device(self.vae), self.vae.dtype)
        posterior = self.vae.encode(pixels.unsqueeze(2)).latent_dist
        latents = posterior.sample(generator) if generator else posterior.mode()
        mean, deviation = (
            torch.tensor(values, device=latents.device).reshape(1, -1, 1, 1, 1)
            for values in (config.latents_mean, config.latents_std)
        )
        return ((latents - mean) * (1.0 / deviation))[:, :, 0]

    def clean_latents(
        self, scheduler: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: tuple[Any, ...]
    ) -> "Tensor":
        packed = kwargs["hidden_states"] - kwargs["timestep"].reshape(-1, 1, 1) * output[0]
        ((_, rows, columns),) = kwargs["img_shapes"][-1]
        return unpack(packed[-1:], 2 * rows, 2 * columns)

    def condition(
        self, controlnet: Any, image: "Image", generator: "torch.Generator", second: "torch.Generator"
    ) -> "Tensor":
        return pack(self.latents_of(self.map_pixels(image), generator)).to(self.transformer.dtype)

    def residuals(
        self, control: Conditioned, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> "dict[str, Tensor | list[Tensor]]":
        same = ("hidden_states", "timestep", "encoder_hidden_states", "encoder_hidden_states_mask", "img_shapes")
        residuals = control.controlnet(
            **{name: kwargs[name] for name in same},
            controlnet_cond=control.condition.repeat(len(kwargs["hidden_states"]), 1, 1),
            conditioning_scale=control.strength,
            return_dict=False,
        )
        count = self.transformer.config.num_layers  # each of a ControlNet's fewer blocks stands for several
        spread = [residuals[i // math.ceil(count / len(residuals))] for i in range(count)]
        return {"controlnet_block_samples": spread}


@dataclass(frozen=True, kw_only=True)
class QwenImage(TransformerFamily):
    def scheduler(self, parts: Components, name: SchedulerName) -> Any:
        """With "shift_3" noise levels are sigma' = 3 sigma / (1 + 2 sigma) at any size of the picture, as Lightning was
        distilled with: https://github.com/ModelTC/Qwen-Image-Lightning."""
        own = super().scheduler(parts, name)
        if name == "default":
            return own
        shift = math.log(3)  # the pipeline hands over e's exponent
        return type(own).from_config(own.config, base_shift=shift, max_shift=shift, shift_terminal=None)

    def encode(self, pipeline: Any, texts: Sequence[str | None]) -> Embeds:
        embeds, mask = pipeline.encode_prompt([text or "" for text in texts], pipeline.device)
        if mask is None:
            return padded(embeds)
        return {"prompt_embeds": embeds, "prompt_embeds_mask": mask.bool()}

    def reads(self, pipeline: Any) -> tuple[Any, int]:
        return pipeline.tokenizer, MAX_TOKENS

    def arguments(self, settings: GenerateSettings, embeds: Embeds, styles: "Sequence[Tensor]") -> dict[str, Any]:
        return {**embeds, "true_cfg_scale": settings.guidance_scale}

    def predict(
        self, parts: QwenImageComponents, noisy: "Tensor", timesteps: "Tensor", embeds: Embeds, sizes: "Tensor"
    ) -> "Tensor":
        n, _, height, width = noisy.shape
        shortened = padded(trimmed(embeds))
        velocity = parts.transformer(
            hidden_states=pack(noisy),
            timestep=timesteps / 1000,
            encoder_hidden_states=shortened["prompt_embeds"],
            encoder_hidden_states_mask=shortened["prompt_embeds_mask"],
            img_shapes=[[(1, height // 2, width // 2)]] * n,
            return_dict=False,
        )[0]
        return unpack(velocity, height, width)


FAMILY = QwenImage(spec=SPEC, parts=QwenImageComponents, options={}, controlnet="QwenImageControlNetModel")
