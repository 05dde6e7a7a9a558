"""Stable Diffusion 3.5 and every base of its architecture (Esser et al., arXiv 2403.03206).

Two streams, of picture and text, look at each other in every block. Two CLIPs and T5 read the prompt, one after the
other in one row; the CLIPs give its summary. It is guided as Stable Diffusion is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.families.base import Base, FamilySpec
from engine.families.components import Conditioned, Embeds, IPAdapter
from engine.families.transformer import SCHEDULERS, TransformerComponents, TransformerFamily
from engine.settings import GenerateSettings

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor

MAX_TOKENS = 256

SPEC = FamilySpec(
    name="sd3",
    title="Stable Diffusion 3.5",
    pipeline="StableDiffusion3Pipeline",
    img2img="StableDiffusion3Img2ImgPipeline",
    inpaint="StableDiffusion3InpaintPipeline",
    denoiser="transformer",
    text_encoders={
        "text_encoder": "CLIPTextModelWithProjection",
        "text_encoder_2": "CLIPTextModelWithProjection",
        "text_encoder_3": "T5EncoderModel",
    },
    trained_text_encoders=("text_encoder", "text_encoder_2"),
    checkpoint=("joint_blocks.0.x_block.attn.qkv.weight", "y_embedder.mlp.0.weight"),
    vae_scale=8,
    side_step_px=16,
    precision="bfloat16",
    objective="flow to clean",
    schedulers=SCHEDULERS,
    lora_targets=(
        *("attn.to_k", "attn.to_q", "attn.to_v", "attn.to_out.0"),
        *("attn.add_k_proj", "attn.add_q_proj", "attn.add_v_proj", "attn.to_add_out"),
    ),
    supports=frozenset({"controlnet", "control_modes", "ip_adapter", "negative_prompt", "guidance_interval"}),
    style_targets=("all",),
    max_styles=1,
    original_layers={
        "joint_blocks.{}.x_block.attn.qkv": tuple(f"transformer_blocks.{{}}.attn.to_{x}" for x in "qkv"),
        "joint_blocks.{}.x_block.attn2.qkv": tuple(f"transformer_blocks.{{}}.attn2.to_{x}" for x in "qkv"),
        "joint_blocks.{}.context_block.attn.qkv": tuple(f"transformer_blocks.{{}}.attn.add_{x}_proj" for x in "qkv"),
        "joint_blocks.{}.x_block.attn.proj": ("transformer_blocks.{}.attn.to_out.0",),
        "joint_blocks.{}.x_block.attn2.proj": ("transformer_blocks.{}.attn2.to_out.0",),
        "joint_blocks.{}.context_block.attn.proj": ("transformer_blocks.{}.attn.to_add_out",),
        "joint_blocks.{}.x_block.mlp.fc1": ("transformer_blocks.{}.ff.net.0.proj",),
        "joint_blocks.{}.x_block.mlp.fc2": ("transformer_blocks.{}.ff.net.2",),
        "joint_blocks.{}.context_block.mlp.fc1": ("transformer_blocks.{}.ff_context.net.0.proj",),
        "joint_blocks.{}.context_block.mlp.fc2": ("transformer_blocks.{}.ff_context.net.2",),
        "joint_blocks.{}.x_block.adaLN_modulation.1": ("transformer_blocks.{}.norm1.linear",),
        "joint_blocks.{}.context_block.adaLN_modulation.1": ("transformer_blocks.{}.norm1_context.linear",),
        "t_embedder.mlp.0": ("time_text_embed.timestep_embedder.linear_1",),
        "t_embedder.mlp.2": ("time_text_embed.timestep_embedder.linear_2",),
        "y_embedder.mlp.0": ("time_text_embed.text_embedder.linear_1",),
        "y_embedder.mlp.2": ("time_text_embed.text_embedder.linear_2",),
        "x_embedder.proj": ("pos_embed.proj",),
        "final_layer.adaLN_modulation.1": ("norm_out.linear",),
        "final_layer.linear": ("proj_out",),
    },
    modelspec_architecture="stable-diffusion-v3.5-large/lora",
    ss_base_model_version="sd3",
)


def large() -> Base:
    """Stable Diffusion 3.5 large with ControlNets and an IP-Adapter made for it, by name from the Hub."""
    controlnet = "stabilityai/stable-diffusion-3.5-large-controlnet"
    return Base(
        name="sd35_large",
        title="Stable Diffusion 3.5 large",
        spec=SPEC,
        source="stabilityai/stable-diffusion-3.5-large",
        default_size_px=1024,
        default_steps=28,
        default_guidance=3.5,
        controlnets={kind: f"{controlnet}-{kind}" for kind in ("canny", "depth")},
        ip_adapter="guiyrt/InstantX-SD3.5-Large-IP-Adapter-diffusers/ip-adapter.safetensors",
        image_encoder="google/siglip-so400m-patch14-384",
    )


def medium() -> Base:
    """Stable Diffusion 3.5 medium, for which there are no ControlNets."""
    return Base(
        name="sd35_medium",
        title="Stable Diffusion 3.5 medium",
        spec=SPEC,
        source="stabilityai/stable-diffusion-3.5-medium",
        marks=("joint_blocks.0.x_block.attn2.qkv.weight",),
        configured={"dual_attention_layers": list(range(13))},
        architecture="stable-diffusion-v3.5-medium/lora",
        default_size_px=1024,
        default_steps=40,
        default_guidance=4.5,
    )


@dataclass(kw_only=True)
class SD3Components(TransformerComponents):
    text_encoder_2: Any
    tokenizer_2: Any
    text_encoder_3: Any
    tokenizer_3: Any

    def clean_latents(
        self, scheduler: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: tuple[Any, ...]
    ) -> "Tensor":
        sigma = kwargs["timestep"].reshape(-1, 1, 1, 1) / scheduler.config.num_train_timesteps
        return (kwargs["hidden_states"] - sigma * output[0])[-1:]

    def condition(
        self, controlnet: Any, image: "Image", generator: "torch.Generator", second: "torch.Generator"
    ) -> "Tensor":
        """Latents for both halves of guidance, which diffusers draws separately."""
        import torch

        if not controlnet.config.use_pos_embed:  # it goes by that of its base
            controlnet.pos_embed = controlnet._get_pos_embed_from_transformer(self.transformer)
        pixels = self.map_pixels(image).to(self.vae.device, self.vae.dtype)
        of_instantx = controlnet.config.force_zeros_for_pooled_projection  # trained on latents that are not shifted
        return self.latents_of(torch.cat([pixels] * 2), second, is_shifted=not of_instantx)

    def residuals(
        self, control: Conditioned, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> "dict[str, Tensor | list[Tensor]]":
        import torch

        controlnet, latents, pooled = control.controlnet, kwargs["hidden_states"], kwargs["pooled_projections"]
        (residuals,) = controlnet(
            hidden_states=latents,
            timestep=kwargs["timestep"],
            encoder_hidden_states=kwargs["encoder_hidden_states"] if controlnet.config.joint_attention_dim else None,
            pooled_projections=torch.zeros_like(pooled)
            if controlnet.config.force_zeros_for_pooled_projection
            else pooled,
            controlnet_cond=control.condition[-len(latents) :],  # of guidance, the positive half comes last
            conditioning_scale=control.strength,
            return_dict=False,
        )
        count = self.transformer.config.num_layers  # each of a ControlNet's fewer blocks stands for several
        spread = [residuals[int(i / (count / len(residuals)))] for i in range(count)]
        return {"block_controlnet_hidden_states": spread}

    def take_styles(self, adapters: Sequence[IPAdapter]) -> None:
        (adapter,) = adapters
        self.transformer._load_ip_adapter_weights(adapter.state)


@dataclass(frozen=True, kw_only=True)
class StableDiffusion3(TransformerFamily):
    @property
    def reference_options(self) -> dict[str, Any]:
        return {"takes_patches": True}

    def encode(self, pipeline: Any, texts: Sequence[str | None]) -> Embeds:
        prompts = [text or "" for text in texts]
        embeds, _, pooled, _ = pipeline.encode_prompt(prompts, None, None, pipeline.device, 1, False)
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}

    def reads(self, pipeline: Any) -> tuple[Any, int]:
        return pipeline.tokenizer_3, MAX_TOKENS

    def arguments(self, settings: GenerateSettings, embeds: Embeds, styles: "Sequence[Tensor]") -> dict[str, Any]:
        seen = styles[0] if styles else None
        return {
            **embeds,
            "guidance_scale": settings.guidance_scale,
            "ip_adapter_image_embeds": seen if seen is None or "negative_prompt_embeds" in embeds else seen[1:],
        }

    def predict(
        self, parts: SD3Components, noisy: "Tensor", timesteps: "Tensor", embeds: Embeds, sizes: "Tensor"
    ) -> "Tensor":
        return parts.transformer(
            hidden_states=noisy,
            timestep=timesteps,
            encoder_hidden_states=embeds["prompt_embeds"],
            pooled_projections=embeds["pooled_prompt_embeds"],
            return_dict=False,
        )[0]


FAMILY = StableDiffusion3(
    spec=SPEC,
    parts=SD3Components,
    options={},
    controlnet="SD3ControlNetModel",
    image_encoder=("SiglipVisionModel", "SiglipImageProcessor"),
)
