"""Flux.1 of Black Forest Labs and every base of its architecture: dev, schnell, Krea.

Two streams, of picture and text, look at each other in the first blocks and go on as one. Squares of 2 by 2 latent
cells are one token ("packed"). T5 reads the prompt, CLIP gives its summary. dev and Krea were distilled from guided
pictures: they are told the strength of guidance and need no second pass. A negative prompt takes one, with a strength
of its own (true CFG). schnell takes four steps and no guidance.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.families.base import Base, FamilySpec
from engine.families.components import Conditioned, Embeds
from engine.families.transformer import SCHEDULERS, TransformerComponents, TransformerFamily
from engine.settings import GenerateSettings

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor

TRAINING_GUIDANCE = 1.0
"""What a base that is told the strength of guidance is told in training: photos are not guided."""

MAX_TOKENS = 512
CONTROL_MODES = {"canny": 0, "depth": 2, "openpose": 4}
"""How the union ControlNet calls the kinds that it follows."""

SPEC = FamilySpec(
    name="flux",
    title="Flux.1",
    pipeline="FluxPipeline",
    img2img="FluxImg2ImgPipeline",
    inpaint="FluxInpaintPipeline",
    denoiser="transformer",
    text_encoders={"text_encoder": "CLIPTextModel", "text_encoder_2": "T5EncoderModel"},
    trained_text_encoders=("text_encoder",),
    checkpoint=("double_blocks.0.img_attn.qkv.weight", "single_blocks.0.linear1.weight", "vector_in.in_layer.weight"),
    vae_scale=8,
    side_step_px=16,
    precision="bfloat16",
    objective="flow",
    schedulers=SCHEDULERS,
    lora_targets=(
        *("attn.to_k", "attn.to_q", "attn.to_v", "attn.to_out.0"),
        *("attn.add_k_proj", "attn.add_q_proj", "attn.add_v_proj", "attn.to_add_out"),
        *("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"),
    ),
    supports=frozenset(
        {"controlnet", "ip_adapter", "negative_prompt", "true_cfg", "attention_kernels", "compiled_blocks"}
    ),
    style_targets=("all",),
    step_caches=("first_block", "mag"),
    original_layers={
        "double_blocks.{}.img_attn.qkv": tuple(f"transformer_blocks.{{}}.attn.to_{x}" for x in "qkv"),
        "double_blocks.{}.txt_attn.qkv": tuple(f"transformer_blocks.{{}}.attn.add_{x}_proj" for x in "qkv"),
        "double_blocks.{}.img_attn.proj": ("transformer_blocks.{}.attn.to_out.0",),
        "double_blocks.{}.txt_attn.proj": ("transformer_blocks.{}.attn.to_add_out",),
        "double_blocks.{}.img_mlp.0": ("transformer_blocks.{}.ff.net.0.proj",),
        "double_blocks.{}.img_mlp.2": ("transformer_blocks.{}.ff.net.2",),
        "double_blocks.{}.txt_mlp.0": ("transformer_blocks.{}.ff_context.net.0.proj",),
        "double_blocks.{}.txt_mlp.2": ("transformer_blocks.{}.ff_context.net.2",),
        "double_blocks.{}.img_mod.lin": ("transformer_blocks.{}.norm1.linear",),
        "double_blocks.{}.txt_mod.lin": ("transformer_blocks.{}.norm1_context.linear",),
        "single_blocks.{}.linear1": (
            *(f"single_transformer_blocks.{{}}.attn.to_{x}" for x in "qkv"),
            "single_transformer_blocks.{}.proj_mlp",
        ),
        "single_blocks.{}.linear2": ("single_transformer_blocks.{}.proj_out",),
        "single_blocks.{}.modulation.lin": ("single_transformer_blocks.{}.norm.linear",),
        "img_in": ("x_embedder",),
        "txt_in": ("context_embedder",),
        "time_in.in_layer": ("time_text_embed.timestep_embedder.linear_1",),
        "time_in.out_layer": ("time_text_embed.timestep_embedder.linear_2",),
        "vector_in.in_layer": ("time_text_embed.text_embedder.linear_1",),
        "vector_in.out_layer": ("time_text_embed.text_embedder.linear_2",),
        "guidance_in.in_layer": ("time_text_embed.guidance_embedder.linear_1",),
        "guidance_in.out_layer": ("time_text_embed.guidance_embedder.linear_2",),
        "final_layer.adaLN_modulation.1": ("norm_out.linear",),
        "final_layer.linear": ("proj_out",),
    },
    modelspec_architecture="flux-1-dev/lora",
    ss_base_model_version="flux1",
)


def dev() -> Base:
    """FLUX.1 [dev] with a ControlNet for several kinds of maps and an IP-Adapter, by name from the Hub."""
    union = "Shakker-Labs/FLUX.1-dev-ControlNet-Union-Pro"
    return Base(
        name="flux_dev",
        title="Flux.1 dev",
        spec=SPEC,
        source="black-forest-labs/FLUX.1-dev",
        marks=("guidance_in.",),
        configured={"guidance_embeds": True},
        default_size_px=1024,
        default_steps=28,
        default_guidance=3.5,
        guidance="told",
        controlnets=dict.fromkeys(CONTROL_MODES, union),
        ip_adapter="XLabs-AI/flux-ip-adapter/ip_adapter.safetensors",
        image_encoder="openai/clip-vit-large-patch14",
    )


def krea() -> Base:
    """FLUX.1 Krea [dev]: dev, tuned towards photographs; made for the same ControlNet and IP-Adapter."""
    return dev().replace(
        name="flux_krea",
        title="Flux.1 Krea",
        source="black-forest-labs/FLUX.1-Krea-dev",
        default_guidance=4.5,
    )


def schnell() -> Base:
    """FLUX.1 [schnell], for pictures in four steps."""
    return Base(
        name="flux_schnell",
        title="Flux.1 schnell",
        spec=SPEC,
        source="black-forest-labs/FLUX.1-schnell",
        configured={"guidance_embeds": False},
        default_size_px=1024,
        default_steps=4,
        default_guidance=1.0,
        guidance="none",
    )


@dataclass(kw_only=True)
class FluxComponents(TransformerComponents):
    text_encoder_2: Any
    tokenizer_2: Any

    def clean_latents(
        self, scheduler: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: tuple[Any, ...]
    ) -> "Tensor":
        packed = kwargs["hidden_states"] - kwargs["timestep"].reshape(-1, 1, 1) * output[0]
        rows, columns = (int(ids.max()) + 1 for ids in kwargs["img_ids"][:, 1:].T)
        return unpack(packed[-1:], 2 * rows, 2 * columns)

    def condition(
        self, controlnet: Any, image: "Image", generator: "torch.Generator", second: "torch.Generator"
    ) -> "Tensor":
        """As packed latents, or as pixels for the ControlNets of XLabs, which have convolutions for them."""
        pixels = self.map_pixels(image).to(self.vae.device, self.vae.dtype)
        return pixels if controlnet.input_hint_block else pack(self.latents_of(pixels, generator))

    def residuals(
        self, control: Conditioned, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> "dict[str, Tensor | list[Tensor]]":
        import torch

        controlnet, latents = control.controlnet, kwargs["hidden_states"]
        mode = torch.full((len(latents), 1), CONTROL_MODES.get(control.kind, 0), device=latents.device)
        double, single = controlnet(
            hidden_states=latents,
            controlnet_cond=control.condition.repeat(len(latents), *(1 for _ in control.condition.shape[1:])),
            controlnet_mode=mode if controlnet.union else None,
            conditioning_scale=control.strength,
            guidance=kwargs["guidance"] if controlnet.config.guidance_embeds else None,
            **{name: kwargs[name] for name in ("timestep", "pooled_projections", "encoder_hidden_states")},
            **{name: kwargs[name] for name in ("txt_ids", "img_ids")},
            return_dict=False,
        )
        # A ControlNet has fewer blocks than its base: each stands for several, side by side, or in turn with XLabs
        in_turn = controlnet.input_hint_block is not None
        config = self.transformer.config
        return {
            name: _spread(residuals, count, in_turn)
            for name, residuals, count in (
                ("controlnet_block_samples", double, config.num_layers),
                ("controlnet_single_block_samples", single, config.num_single_layers),
            )
            if residuals
        }


def _spread(residuals: "Sequence[Tensor]", count: int, in_turn: bool) -> "list[Tensor]":
    """One for each of `count` blocks."""
    if in_turn:
        return [residuals[i % len(residuals)] for i in range(count)]
    return [residuals[i // math.ceil(count / len(residuals))] for i in range(count)]


def pack(latents: "Tensor") -> "Tensor":
    """(n, c, h, w) to tokens (n, h w / 4, 4 c)."""
    n, c, h, w = latents.shape
    return latents.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(n, h * w // 4, 4 * c)


def unpack(tokens: "Tensor", height: int, width: int) -> "Tensor":
    """The inverse of `pack`, for latents of that height and width."""
    n, _, c = tokens.shape
    cells = tokens.reshape(n, height // 2, width // 2, c // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return cells.reshape(n, c // 4, height, width)


@dataclass(frozen=True, kw_only=True)
class Flux(TransformerFamily):
    @property
    def reference_options(self) -> dict[str, Any]:
        return {"nothing_is_black": True}

    def encode(self, pipeline: Any, texts: Sequence[str | None]) -> Embeds:
        embeds, pooled, _ = pipeline.encode_prompt([text or "" for text in texts], None, pipeline.device)
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}

    def guides(self, settings: GenerateSettings, base: Base) -> bool:
        return settings.true_cfg_scale > 1

    def reads(self, pipeline: Any) -> tuple[Any, int]:
        return pipeline.tokenizer_2, MAX_TOKENS

    def arguments(self, settings: GenerateSettings, embeds: Embeds, styles: "Sequence[Tensor]") -> dict[str, Any]:
        return {
            **embeds,
            "guidance_scale": settings.guidance_scale,
            "true_cfg_scale": settings.true_cfg_scale,
            "ip_adapter_image_embeds": [e[1:] for e in styles] or None,
            "negative_ip_adapter_image_embeds": [e[:1] for e in styles] or None,
        }

    def predict(
        self, parts: FluxComponents, noisy: "Tensor", timesteps: "Tensor", embeds: Embeds, sizes: "Tensor"
    ) -> "Tensor":
        import torch
        from diffusers import FluxPipeline

        n, _, height, width = noisy.shape
        text = embeds["prompt_embeds"]
        is_told = parts.transformer.config.guidance_embeds
        velocity = parts.transformer(
            hidden_states=pack(noisy),
            timestep=timesteps / 1000,
            guidance=torch.full((n,), TRAINING_GUIDANCE, device=noisy.device) if is_told else None,
            pooled_projections=embeds["pooled_prompt_embeds"],
            encoder_hidden_states=text,
            txt_ids=torch.zeros(text.shape[1], 3, device=noisy.device, dtype=text.dtype),
            img_ids=FluxPipeline._prepare_latent_image_ids(n, height // 2, width // 2, noisy.device, text.dtype),
            return_dict=False,
        )[0]
        return unpack(velocity, height, width)


FAMILY = Flux(spec=SPEC, parts=FluxComponents, options={}, controlnet="FluxControlNetModel")
