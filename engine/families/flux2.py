"""FLUX.2 [klein] of Black Forest Labs.

Two streams, of picture and text, go on as one, as in Flux.1; the language model Qwen3 reads the prompt, of which three
of its layers are taken. The autoencoder's latents are taken 2 by 2 and normalized channel by channel. A picture to
start from is also looked at as it is, as one of the references that the model was trained on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.families.base import Base, FamilySpec
from engine.families.components import Embeds
from engine.families.transformer import SCHEDULERS, TransformerComponents, TransformerFamily
from engine.settings import GenerateSettings

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor

MAX_TOKENS = 512
MOST_SINGLE_BLOCKS = 48

SPEC = FamilySpec(
    name="flux2",
    title="FLUX.2 klein",
    pipeline="Flux2KleinPipeline",
    img2img="Flux2KleinInpaintPipeline",
    inpaint="Flux2KleinInpaintPipeline",
    denoiser="transformer",
    text_encoders={"text_encoder": "Qwen3ForCausalLM"},
    checkpoint=("double_stream_modulation_img.", "single_blocks.0.linear1.weight"),
    vae_scale=16,
    side_step_px=16,
    precision="bfloat16",
    objective="flow",
    schedulers=SCHEDULERS,
    lora_targets=(
        *("to_k", "to_q", "to_v", "to_out.0", "to_qkv_mlp_proj"),
        *(f"single_transformer_blocks.{n}.attn.to_out" for n in range(MOST_SINGLE_BLOCKS)),
    ),
    supports=frozenset({"negative_prompt", "attention_kernels", "compiled_blocks"}),
    style_targets=(),
    original_layers={
        "double_blocks.{}.img_attn.qkv": tuple(f"transformer_blocks.{{}}.attn.to_{x}" for x in "qkv"),
        "double_blocks.{}.txt_attn.qkv": tuple(f"transformer_blocks.{{}}.attn.add_{x}_proj" for x in "qkv"),
        "double_blocks.{}.img_attn.proj": ("transformer_blocks.{}.attn.to_out.0",),
        "double_blocks.{}.txt_attn.proj": ("transformer_blocks.{}.attn.to_add_out",),
        "double_blocks.{}.img_mlp.0": ("transformer_blocks.{}.ff.linear_in",),
        "double_blocks.{}.img_mlp.2": ("transformer_blocks.{}.ff.linear_out",),
        "double_blocks.{}.txt_mlp.0": ("transformer_blocks.{}.ff_context.linear_in",),
        "double_blocks.{}.txt_mlp.2": ("transformer_blocks.{}.ff_context.linear_out",),
        "single_blocks.{}.linear1": ("single_transformer_blocks.{}.attn.to_qkv_mlp_proj",),
        "single_blocks.{}.linear2": ("single_transformer_blocks.{}.attn.to_out",),
        "img_in": ("x_embedder",),
        "txt_in": ("context_embedder",),
        "time_in.in_layer": ("time_guidance_embed.timestep_embedder.linear_1",),
        "time_in.out_layer": ("time_guidance_embed.timestep_embedder.linear_2",),
        "double_stream_modulation_img.lin": ("double_stream_modulation_img.linear",),
        "double_stream_modulation_txt.lin": ("double_stream_modulation_txt.linear",),
        "single_stream_modulation.lin": ("single_stream_modulation.linear",),
        "final_layer.adaLN_modulation.1": ("norm_out.linear",),
        "final_layer.linear": ("proj_out",),
    },
    modelspec_architecture="flux.2-klein-4b/lora",
    ss_base_model_version="flux2",
)


def klein() -> Base:
    """FLUX.2 [klein] 4B, distilled for four steps without guidance, by name from the Hub."""
    return Base(
        name="flux2_klein",
        title="FLUX.2 klein",
        spec=SPEC,
        source="black-forest-labs/FLUX.2-klein-4B",
        configured={"is_distilled": True},
        default_size_px=1024,
        default_steps=4,
        default_guidance=1.0,
        guidance="none",
    )


def klein_base() -> Base:
    """FLUX.2 [klein] 4B as it was before that: for training, and for pictures with guidance."""
    return klein().replace(
        name="flux2_klein_base",
        title="FLUX.2 klein base",
        source="black-forest-labs/FLUX.2-klein-base-4B",
        configured={"is_distilled": False},
        default_steps=50,
        default_guidance=4.0,
        guidance="two passes",
    )


@dataclass(kw_only=True)
class Flux2Components(TransformerComponents):
    is_distilled: bool

    def latents_of(
        self, pixels: "Tensor", generator: "torch.Generator | None" = None, *, is_shifted: bool = True
    ) -> "Tensor":
        import torch
        from diffusers import Flux2KleinPipeline
        from diffusers.utils.torch_utils import get_module_execution_device

        vae = self.vae
        posterior = vae.encode(pixels.to(get_module_execution_device(vae), vae.dtype)).latent_dist
        latents = Flux2KleinPipeline._patchify_latents(posterior.sample(generator) if generator else posterior.mode())
        mean = vae.bn.running_mean.reshape(1, -1, 1, 1).to(latents)
        deviation = torch.sqrt(vae.bn.running_var.reshape(1, -1, 1, 1) + vae.config.batch_norm_eps).to(latents)
        return (latents - mean) / deviation

    def clean_latents(
        self, scheduler: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: tuple[Any, ...]
    ) -> "Tensor":
        tokens = kwargs["hidden_states"] - kwargs["timestep"].reshape(-1, 1, 1) * output[0]
        ids = kwargs["img_ids"][0]
        drawn = ids[:, 0] == 0  # the others are of the start
        rows = int(ids[drawn, 1].max()) + 1
        return tokens[-1:, drawn].mT.unflatten(2, (rows, -1))


@dataclass(frozen=True, kw_only=True)
class Flux2(TransformerFamily):
    def encode(self, pipeline: Any, texts: Sequence[str | None]) -> Embeds:
        embeds, _ = pipeline.encode_prompt([text or "" for text in texts], pipeline.device)
        return {"prompt_embeds": embeds}

    def reads(self, pipeline: Any) -> tuple[Any, int]:
        return pipeline.tokenizer, MAX_TOKENS

    def arguments(self, settings: GenerateSettings, embeds: Embeds, styles: "Sequence[Tensor]") -> dict[str, Any]:
        return {**embeds, "guidance_scale": settings.guidance_scale}

    def started(self, pipeline: Any, image: "Image", mask: "Image | None", strength: float) -> dict[str, Any]:
        """As latents, for larger pictures would be made smaller. One pipeline does both: without a mask all is drawn
        anew."""
        import torch
        from diffusers.utils.torch_utils import get_module_execution_device
        from PIL import Image

        vae, pixels = pipeline.vae, pipeline.image_processor.preprocess(image)
        with torch.no_grad():
            latents = vae.encode(pixels.to(get_module_execution_device(vae), vae.dtype)).latent_dist.mode()
        return super().started(
            pipeline, pipeline._patchify_latents(latents), mask or Image.new("L", image.size, "white"), strength
        )

    def predict(
        self, parts: Flux2Components, noisy: "Tensor", timesteps: "Tensor", embeds: Embeds, sizes: "Tensor"
    ) -> "Tensor":
        from diffusers import Flux2KleinPipeline

        text = embeds["prompt_embeds"]
        velocity = parts.transformer(
            hidden_states=noisy.flatten(2).mT,
            timestep=timesteps / 1000,
            guidance=None,
            encoder_hidden_states=text,
            txt_ids=Flux2KleinPipeline._prepare_text_ids(text).to(text.device),
            img_ids=Flux2KleinPipeline._prepare_latent_ids(noisy).to(noisy.device),
            return_dict=False,
        )[0]
        return velocity.mT.unflatten(2, noisy.shape[2:])


FAMILY = Flux2(spec=SPEC, parts=Flux2Components, options={})
