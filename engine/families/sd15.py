"""Stable Diffusion 1.5 and every base of its architecture: loading, schedulers, the pipeline.

Sizes, channels, prediction type and schedule are read from the configurations of the base at hand. diffusers does the
denoising; this module only puts its parts together.
"""

from typing import TYPE_CHECKING, Any

from engine.errors import MissingModel
from engine.families.base import Base, Components, FamilySpec, IPAdapter, fetched
from engine.settings import SchedulerName

if TYPE_CHECKING:
    import torch

SPEC = FamilySpec(
    name="sd15",
    title="Stable Diffusion 1.5",
    vae_scale=8,
    lora_targets=("to_k", "to_q", "to_v", "to_out.0"),
    supports=frozenset({"controlnet", "ip_adapter", "negative_prompt"}),
    style_targets=("all",),
    modelspec_architecture="stable-diffusion-v1/lora",
    ss_base_model_version="sd_v1",
)

# Each is built from the configuration of the base's own scheduler, so that the prediction type, the betas and the
# spacing of the timesteps stay those that the base was trained for.
SCHEDULERS: dict[SchedulerName, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": False}),
    "dpmpp_2m_karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
}


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
        },
        ip_adapter="h94/IP-Adapter/models/ip-adapter_sd15.safetensors",
    )


class StableDiffusion15:
    """The family: UNet with cross-attention, CLIP text encoder, AutoencoderKL. See `Family` for the methods."""

    spec = SPEC

    def load(self, base: Base, dtype: "torch.dtype", device: str) -> Components:
        from diffusers import StableDiffusionPipeline
        from diffusers.utils import logging
        from transformers.utils import logging as transformers_logging

        logging.set_verbosity_error()  # remarks for programmers
        logging.disable_progress_bar()
        transformers_logging.disable_progress_bar()
        weights = [base.weights(part) for part in ("unet", "vae", "text_encoder")]
        folder = fetched(base.source, "*.json", "tokenizer/*", *weights)
        if not (folder / "model_index.json").is_file():
            raise MissingModel(f"There is no model in {folder}.", "Put its weights there, or choose another base.")
        pipeline = StableDiffusionPipeline.from_pretrained(
            folder,
            variant=base.variant,
            dtype=dtype,
            use_safetensors=True,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        parts = Components(
            unet=pipeline.unet,
            vae=pipeline.vae,
            text_encoder=pipeline.text_encoder,
            tokenizer=pipeline.tokenizer,
            scheduler=pipeline.scheduler,
        )
        for model in (parts.unet, parts.vae, parts.text_encoder):
            model.to(device).eval().requires_grad_(False)
        return parts

    def load_controlnet(self, base: Base, kind: str, dtype: "torch.dtype", device: str) -> Any:
        from diffusers import ControlNetModel

        suffix = f".{base.variant}" if base.variant else ""
        folder = fetched(base.require_controlnet(kind), "config.json", f"diffusion_pytorch_model{suffix}.safetensors")
        controlnet: Any = ControlNetModel.from_pretrained(
            folder, variant=base.variant, dtype=dtype, use_safetensors=True
        )
        return controlnet.to(device).eval().requires_grad_(False)

    def load_ip_adapter(self, base: Base, dtype: "torch.dtype", device: str) -> IPAdapter:
        from safetensors.torch import load_file
        from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

        source, _, file_name = base.require_ip_adapter().rpartition("/")
        folder = fetched(source, file_name, "image_encoder/*.json", "image_encoder/model.safetensors")
        state: dict[str, dict[str, Any]] = {"image_proj": {}, "ip_adapter": {}}
        for key, tensor in load_file(folder / file_name).items():
            group, _, name = key.partition(".")
            state[group][name] = tensor.to(device, dtype)
        image_encoder: Any = CLIPVisionModelWithProjection.from_pretrained(
            folder / "image_encoder", dtype=dtype, use_safetensors=True
        )
        # Published adapters have no preprocessor of their own: CLIP's, at the size of the encoder, as diffusers does
        side_px = image_encoder.config.image_size
        feature_extractor = (
            CLIPImageProcessor.from_pretrained(folder / "image_encoder")
            if (folder / "image_encoder" / "preprocessor_config.json").is_file()
            else CLIPImageProcessor(size=side_px, crop_size=side_px)
        )
        return IPAdapter(
            state=state,
            image_encoder=image_encoder.to(device).eval().requires_grad_(False),
            feature_extractor=feature_extractor,
        )

    def layers(self, base: Base) -> dict[str, tuple[int, ...]]:
        import torch
        from diffusers import UNet2DConditionModel
        from transformers import CLIPTextConfig, CLIPTextModel

        folder = fetched(base.source, "unet/config.json", "text_encoder/config.json")
        unet_config: Any = UNet2DConditionModel.load_config(folder / "unet")
        with torch.device("meta"):
            models: dict[str, Any] = {
                "unet": UNet2DConditionModel.from_config(unet_config),
                "text_encoder": CLIPTextModel(CLIPTextConfig.from_pretrained(folder / "text_encoder")),
            }
        return {
            f"{part}.{name}": tuple(module.weight.shape)
            for part, model in models.items()
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
        }

    def pipeline(self, parts: Components, scheduler: SchedulerName) -> Any:
        import diffusers

        class_name, options = SCHEDULERS.get(scheduler, (type(parts.scheduler).__name__, {}))
        pipeline = diffusers.StableDiffusionPipeline(
            **vars(parts)
            | {"scheduler": getattr(diffusers, class_name).from_config(parts.scheduler.config, **options)},
            safety_checker=None,  # type: ignore[arg-type]
            feature_extractor=None,  # type: ignore[arg-type]
            requires_safety_checker=False,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline
