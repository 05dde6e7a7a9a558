"""What the families with a UNet have in common: loading, schedulers, the pipeline.

Sizes, channels, prediction type and schedule are read from the configurations of the base at hand. diffusers does the
denoising; this module only puts its parts together, and knows no family by name.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import MissingModel
from engine.families.base import Base, Components, Embeds, FamilySpec, IPAdapter, fetched
from engine.settings import SchedulerName

if TYPE_CHECKING:
    import torch

CONFIGURATIONS = Path(__file__).parent.parent.parent / "presets" / "checkpoints"
"""By family, everything but the weights in diffusers' layout: what a checkpoint in one file leaves out."""

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


@dataclass(frozen=True, kw_only=True)
class UNetFamily(ABC):
    """A family whose denoiser is a UNet with cross-attention and whose autoencoder is AutoencoderKL. See `Family` for
    the methods; how text is encoded is left to each family.

    `parts` is what a loaded base consists of, `options` what its pipeline is made with besides.
    """

    spec: FamilySpec
    parts: type[Components] = Components
    options: Mapping[str, Any]

    def load(self, base: Base, dtype: "torch.dtype", device: str) -> Components:
        import torch
        from diffusers.utils import logging
        from transformers.utils import logging as transformers_logging

        logging.set_verbosity_error()  # remarks for programmers
        logging.disable_progress_bar()
        transformers_logging.disable_progress_bar()
        pipeline = self._from_file(base, dtype) if base.is_file else self._from_folder(base, dtype)
        found = {**pipeline.config, **pipeline.components}
        parts = self.parts(**{field.name: found[field.name] for field in fields(self.parts)})
        for model in vars(parts).values():
            if isinstance(model, torch.nn.Module):
                model.to(device).eval().requires_grad_(False)
        return parts

    def _from_folder(self, base: Base, dtype: "torch.dtype") -> Any:
        import diffusers

        weights = [base.weights(part) for part in ("unet", "vae", *self.spec.text_encoders)]
        folder = fetched(base.source, "*.json", "tokenizer*/*", *weights)
        if not (folder / "model_index.json").is_file():
            raise MissingModel(f"There is no model in {folder}.", "Put its weights there, or choose another base.")
        return getattr(diffusers, self.spec.pipeline).from_pretrained(
            folder, variant=base.variant, dtype=dtype, use_safetensors=True, **self.options
        )

    def _from_file(self, base: Base, dtype: "torch.dtype") -> Any:
        import diffusers

        pipeline = getattr(diffusers, self.spec.pipeline).from_single_file(
            str(fetched(base.source)),
            config=str(self._configuration(base)),
            local_files_only=True,
            dtype=dtype,
            **self.options,
        )
        pipeline.scheduler = pipeline.scheduler.from_config(pipeline.scheduler.config, **base.schedule)
        return pipeline

    def _configuration(self, base: Base) -> Path:
        """A folder of diffusers' layout with at least the configurations of UNet and text encoders."""
        if base.is_file:
            return CONFIGURATIONS / self.spec.name
        return fetched(base.source, *(f"{part}/config.json" for part in ("unet", *self.spec.text_encoders)))

    def load_controlnet(self, base: Base, kind: str, dtype: "torch.dtype", device: str) -> Any:
        from diffusers import ControlNetModel

        source = base.require_controlnet(kind)
        for variant in ("fp16", None):  # half the size, where there is one
            name = f"diffusion_pytorch_model{f'.{variant}' if variant else ''}.safetensors"
            folder = fetched(source, "config.json", name)
            if (folder / name).is_file():
                break
        else:
            raise MissingModel(f"There are no safetensors weights in {source}.", "Choose another base.")
        controlnet: Any = ControlNetModel.from_pretrained(folder, variant=variant, dtype=dtype, use_safetensors=True)
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
        import transformers
        from diffusers import UNet2DConditionModel

        folder = self._configuration(base)
        unet_config: Any = UNet2DConditionModel.load_config(folder / "unet")
        with torch.device("meta"):
            models: dict[str, Any] = {"unet": UNet2DConditionModel.from_config(unet_config)}
            for part, class_name in self.spec.text_encoders.items():
                config = transformers.CLIPTextConfig.from_pretrained(folder / part)
                models[part] = getattr(transformers, class_name)(config)
        return {
            f"{part}.{name}": tuple(module.weight.shape)
            for part, model in models.items()
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
        }

    def pipeline(self, parts: Components, scheduler: SchedulerName) -> Any:
        import diffusers

        class_name, options = SCHEDULERS.get(scheduler, (type(parts.scheduler).__name__, {}))
        pipeline = getattr(diffusers, self.spec.pipeline)(
            **vars(parts)
            | {"scheduler": getattr(diffusers, class_name).from_config(parts.scheduler.config, **options)},
            **self.options,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    @abstractmethod
    def encode(self, pipeline: Any, texts: Sequence[str | None]) -> Embeds: ...

    def added_conditions(self, embeds: Embeds, sizes: "torch.Tensor") -> Embeds | None:
        return None
