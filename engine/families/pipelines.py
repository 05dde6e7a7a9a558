"""What all families have in common: loading the parts of a pipeline of diffusers, and putting them together.

Sizes, channels and schedules are read from the configurations of the base at hand. diffusers does the denoising; this
module knows no family by name, and nothing of how a denoiser is called.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import MissingModel
from engine.families.base import Base, FamilySpec, fetched
from engine.families.components import Components, Embeds, IPAdapter
from engine.families.fit import read_shapes, require_fitting
from engine.settings import GenerateSettings, SchedulerName, Task

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor

CONFIGURATIONS = Path(__file__).parent.parent.parent / "presets" / "checkpoints"
"""By family, everything but the weights in diffusers' layout: what a checkpoint in one file leaves out."""

_IN_IP_ADAPTER = {
    "image_proj.": "image_proj",
    "ip_adapter_proj_model.": "image_proj",
    "ip_adapter.": "ip_adapter",
    "double_blocks.": "ip_adapter",
}
_IN_XLABS = {
    "ip_adapter_double_stream_k_proj": "to_k_ip",
    "ip_adapter_double_stream_v_proj": "to_v_ip",
    "processor.": "",
}


@dataclass(frozen=True, kw_only=True)
class PipelineFamily(ABC):
    """A family by its pipeline. See `Family` for the methods; how text is encoded, the pipeline called and the denoiser
    asked is left to each.

    `parts` is what a loaded base consists of, `options` what its pipeline is made with besides, `controlnet` the class
    of its ControlNets in diffusers, and `image_encoder` of its style adapters' in transformers, with its processor.
    """

    spec: FamilySpec
    parts: type[Components]
    options: Mapping[str, Any]
    controlnet: str = "ControlNetModel"
    image_encoder: tuple[str, str] = ("CLIPVisionModelWithProjection", "CLIPImageProcessor")

    def load(self, base: Base, dtype: "torch.dtype", device: str) -> Components:
        import torch
        from diffusers.utils import logging
        from transformers.utils import logging as transformers_logging

        logging.set_verbosity_error()  # remarks for programmers
        logging.disable_progress_bar()
        transformers_logging.disable_progress_bar()
        pipeline = self._from_file(base, dtype) if base.is_file else self._from_folder(base.source, base, dtype)
        found = {**pipeline.config, **pipeline.components}
        parts = self.parts(**{field.name: found[field.name] for field in fields(self.parts)})
        for model in vars(parts).values():
            if isinstance(model, torch.nn.Module):
                model.to(device).eval().requires_grad_(False)
        return parts

    def _from_folder(self, source: str, base: Base, dtype: "torch.dtype", **parts: Any) -> Any:
        """The pipeline of the folder `source`, with these `parts` in place of its own."""
        import diffusers

        own = [part for part in (self.spec.denoiser, "vae", *self.spec.text_encoders) if part not in parts]
        folder = fetched(source, "*.json", "tokenizer*/*", *(base.weights(part) for part in own))
        if not (folder / "model_index.json").is_file():
            raise MissingModel(f"There is no model in {folder}.", "Put its weights there, or choose another base.")
        return getattr(diffusers, self.spec.pipeline).from_pretrained(
            folder, variant=base.variant, dtype=dtype, use_safetensors=True, **self.options, **parts
        )

    def _from_file(self, base: Base, dtype: "torch.dtype") -> Any:
        raise NotImplementedError

    def _configuration(self, base: Base) -> Path:
        """A folder of diffusers' layout with at least the configurations of denoiser and text encoders."""
        source = base.companion if base.is_file else base.source
        if source is None:
            return CONFIGURATIONS / self.spec.name
        return fetched(source, *(f"{part}/config.json" for part in (self.spec.denoiser, *self.spec.text_encoders)))

    def _denoiser_class(self, folder: Path) -> Any:
        import diffusers

        config = json.loads((folder / self.spec.denoiser / "config.json").read_text())
        return getattr(diffusers, config["_class_name"])

    def load_controlnet(self, base: Base, kind: str, dtype: "torch.dtype", device: str) -> Any:
        import diffusers

        source = base.require_controlnet(kind)
        for variant in ("fp16", None):  # half the size, where there is one
            name = f"diffusion_pytorch_model{f'.{variant}' if variant else ''}.safetensors"
            folder = fetched(source, "config.json", name)
            if (folder / name).is_file():
                break
        else:
            raise MissingModel(f"There are no safetensors weights in {source}.", "Choose another base.")
        require_fitting(folder, read_shapes(folder / name), self.denoiser_layers(base), base.title)
        class_name = self.controlnet_class(json.loads((folder / "config.json").read_text()))
        controlnet: Any = getattr(diffusers, class_name).from_pretrained(
            folder, variant=variant, dtype=dtype, use_safetensors=True
        )
        return controlnet.to(device).eval().requires_grad_(False)

    def controlnet_class(self, config: Mapping[str, Any]) -> str:
        """The class in diffusers of a ControlNet with this configuration."""
        return self.controlnet

    def denoiser_layers(self, base: Base) -> dict[str, tuple[int, ...]]:
        """Of `layers` those of the denoiser, by their names in it."""
        part = f"{self.spec.denoiser}."
        return {name.removeprefix(part): shape for name, shape in self.layers(base).items() if name.startswith(part)}

    def load_ip_adapter(self, base: Base, dtype: "torch.dtype", device: str) -> IPAdapter:
        import transformers
        from safetensors.torch import load_file

        source, _, file_name = base.require_ip_adapter().rpartition("/")
        encoder_source = base.image_encoder or f"{source}/image_encoder"
        folder = fetched(source, file_name)
        state: dict[str, dict[str, Any]] = {"image_proj": {}, "ip_adapter": {}}
        for key, tensor in load_file(folder / file_name).items():
            start = next(start for start in _IN_IP_ADAPTER if key.startswith(start))
            name = key.removeprefix(start)
            for xlabs, ours in _IN_XLABS.items():
                name = name.replace(xlabs, ours)
            state[_IN_IP_ADAPTER[start]][name] = tensor.to(device, dtype)
        encoder_class, processor_class = (getattr(transformers, name) for name in self.image_encoder)
        encoder_folder = fetched(encoder_source, "*.json", "model.safetensors")
        image_encoder: Any = encoder_class.from_pretrained(encoder_folder, dtype=dtype, use_safetensors=True)
        # Published adapters have no preprocessor of their own: CLIP's, at the size of the encoder, as diffusers does
        side_px = image_encoder.config.image_size
        feature_extractor = (
            processor_class.from_pretrained(encoder_folder)
            if (encoder_folder / "preprocessor_config.json").is_file()
            else processor_class(size=side_px, crop_size=side_px)
        )
        return IPAdapter(
            state=state,
            image_encoder=image_encoder.to(device).eval().requires_grad_(False),
            feature_extractor=feature_extractor,
            **self.reference_options,
        )

    @property
    def reference_options(self) -> dict[str, Any]:
        """How an `IPAdapter` of the family looks at a reference."""
        return {}

    def layers(self, base: Base) -> dict[str, tuple[int, ...]]:
        import torch
        import transformers

        folder = self._configuration(base)
        denoiser_class = self._denoiser_class(folder)
        config = denoiser_class.load_config(folder / self.spec.denoiser)
        with torch.device("meta"):
            models: dict[str, Any] = {self.spec.denoiser: denoiser_class.from_config(config)}
            for part, class_name in self.spec.text_encoders.items():
                model_class = getattr(transformers, class_name)
                models[part] = model_class(model_class.config_class.from_pretrained(folder / part))
        return {
            f"{part}.{name}": tuple(module.weight.shape)
            for part, model in models.items()
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
        }

    def pipeline(self, parts: Components, scheduler: SchedulerName, task: Task = "text_to_image") -> Any:
        import diffusers

        pipeline = getattr(diffusers, self.spec.pipeline_for(task))(
            **vars(parts) | {"scheduler": self.scheduler(parts, scheduler)}, **self.options
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def scheduler(self, parts: Components, name: SchedulerName) -> Any:
        """A fresh scheduler, of the base's own class."""
        return type(parts.scheduler).from_config(parts.scheduler.config)

    @abstractmethod
    def encode(self, pipeline: Any, texts: Sequence[str | None]) -> Embeds: ...

    def guides(self, settings: GenerateSettings, base: Base) -> bool:
        return base.guidance == "two passes" and settings.guidance_scale > 1

    def reads(self, pipeline: Any) -> tuple[Any, int]:
        return pipeline.tokenizer, pipeline.tokenizer.model_max_length

    def set_steps(self, scheduler: Any, steps: int) -> None:
        scheduler.set_timesteps(steps)

    @abstractmethod
    def arguments(self, settings: GenerateSettings, embeds: Embeds, styles: "Sequence[Tensor]") -> dict[str, Any]: ...

    def started(self, pipeline: Any, image: Any, mask: "Image | None", strength: float) -> dict[str, Any]:
        return {"image": image, "strength": strength} | ({"mask_image": mask} if mask else {})

    @abstractmethod
    def predict(
        self, parts: Any, noisy: "Tensor", timesteps: "Tensor", embeds: Embeds, sizes: "Tensor"
    ) -> "Tensor": ...
