"""What the families with a UNet have in common: schedulers, and how the UNet is called and steered.

The prediction type and the schedule are read from the configurations of the base at hand. Knows no family by name.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.families.base import Base, fetched
from engine.families.components import Components, Conditioned, Embeds
from engine.families.pipelines import PipelineFamily
from engine.settings import GenerateSettings, SchedulerName

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor

# Each is built from the configuration of the base's own scheduler, so that the prediction type, the betas and the
# spacing of the timesteps stay those that the base was trained for.
SCHEDULERS: dict[SchedulerName, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "ddim_trailing": ("DDIMScheduler", {"timestep_spacing": "trailing"}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_trailing": ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": False}),
    "dpmpp_2m_karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
}


@dataclass(kw_only=True)
class UNetComponents(Components):
    """With a UNet, which is told timesteps and text."""

    unet: Any

    @property
    def denoiser(self) -> Any:
        return self.unet

    def clean_latents(
        self, scheduler: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: tuple[Any, ...]
    ) -> "Tensor":
        """Whatever the scheduler, the network sees x = a x0 + s e with a^2 + s^2 = 1, and predicts e or v = a e - s x0
        (Salimans and Ho, arXiv 2202.00512, appendix D). Of both halves of classifier-free guidance, that of the prompt.
        """
        noisy, prediction = args[0][-1:], output[0][-1:]
        alpha_squared = scheduler.alphas_cumprod[int(args[1])].to(noisy)
        a, s = alpha_squared.sqrt(), (1 - alpha_squared).sqrt()
        if scheduler.config.prediction_type == "v_prediction":
            return a * noisy - s * prediction
        return (noisy - s * prediction) / a

    def condition(
        self, controlnet: Any, image: "Image", generator: "torch.Generator", second: "torch.Generator"
    ) -> "Tensor":
        from diffusers.image_processor import VaeImageProcessor

        processor = VaeImageProcessor(vae_scale_factor=1, do_convert_rgb=True, do_normalize=False)
        return processor.preprocess(image).to(self.unet.device, self.unet.dtype)

    def residuals(
        self, control: Conditioned, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> "dict[str, Tensor | list[Tensor]]":
        sample, timestep = args
        with remembered(control.controlnet.controlnet_cond_embedding, control.memory):
            down, middle = control.controlnet(
                sample,
                timestep,
                encoder_hidden_states=kwargs["encoder_hidden_states"],
                **self.shown(control, control.condition.to(sample.device).repeat(len(sample), 1, 1, 1)),
                conditioning_scale=control.strength,
                added_cond_kwargs=kwargs.get("added_cond_kwargs"),
                return_dict=False,
            )
        return {"down_block_additional_residuals": list(down), "mid_block_additional_residual": middle}

    def shown(self, control: Conditioned, condition: "Tensor") -> dict[str, Any]:
        """A map for each picture of the batch as arguments of its ControlNet."""
        return {"controlnet_cond": condition}


@contextmanager
def remembered(embedding: Any, memory: "dict[int, Tensor]") -> Iterator[None]:
    """In the body, what a ControlNet makes of its map, at the map's full size, is computed once for a batch size: the
    map is the same at every step. It takes two thirds of the time of the starter's ControlNet."""
    compute, own = embedding.forward, vars(embedding).get("forward")

    def forward(condition: "Tensor") -> "Tensor":
        if len(condition) not in memory:
            memory[len(condition)] = compute(condition)
        return memory[len(condition)]

    embedding.forward = forward
    try:
        yield
    finally:
        if own is None:
            del embedding.forward
        else:
            embedding.forward = own


@dataclass(frozen=True, kw_only=True)
class UNetFamily(PipelineFamily):
    """A family whose denoiser is a UNet with cross-attention and whose autoencoder is AutoencoderKL."""

    parts: type[Components] = UNetComponents

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

    def scheduler(self, parts: Components, name: SchedulerName) -> Any:
        import diffusers

        class_name, options = SCHEDULERS.get(name, (type(parts.scheduler).__name__, {}))
        return getattr(diffusers, class_name).from_config(parts.scheduler.config, **options)

    def arguments(self, settings: GenerateSettings, embeds: Embeds, styles: "Sequence[Tensor]") -> dict[str, Any]:
        return {
            **embeds,
            "guidance_scale": settings.guidance_scale,
            "ip_adapter_image_embeds": [e if "negative_prompt_embeds" in embeds else e[1:] for e in styles] or None,
        }

    def predict(
        self, parts: UNetComponents, noisy: "Tensor", timesteps: "Tensor", embeds: Embeds, sizes: "Tensor"
    ) -> "Tensor":
        added = self.added_conditions(embeds, sizes)
        return parts.unet(noisy, timesteps, embeds["prompt_embeds"], added_cond_kwargs=added).sample

    def added_conditions(self, embeds: Embeds, sizes: "Tensor") -> Embeds | None:
        """What the UNet takes beside timesteps and `prompt_embeds`, if anything, of sizes as in `predict`."""
        return None
