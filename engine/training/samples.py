"""Pictures on the way: the same prompts from the same seeds, made by the model as it is being trained.

diffusers' pipeline makes them, in full precision, so that they are what the finished LoRA will give.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from engine.families import Base, Components, family, guided
from engine.settings import GenerateSettings, TrainSettings
from engine.training.data import TrainingData

if TYPE_CHECKING:
    from PIL.Image import Image

STEPS = 12
SEED = 1


def sample_prompts(settings: TrainSettings) -> tuple[str, ...]:
    """The prompts asked for, or else: the subject plainly, in another setting, and in another look."""
    subject = f"{settings.trigger} {settings.class_name}".strip()
    return settings.sample_prompts or (
        f"a photo of {subject}",
        f"a photo of {subject} on a sandy beach",
        f"a watercolour painting of {subject}",
    )


def sample_settings(base: Base) -> GenerateSettings:
    """Of every sample, but for its prompt."""
    return GenerateSettings(prompt="sample", guidance_scale=base.default_guidance)


def draw_samples(
    base: Base, parts: Components, data: TrainingData, side_px: int, before_each_step: Callable[[], None]
) -> "list[Image]":
    """One picture per sample prompt. `before_each_step` may raise to stop."""
    import torch

    def on_step_end(*_: object) -> dict:
        before_each_step()
        return {}

    own = family(base.family)
    settings = sample_settings(base)
    rescale = {"guidance_rescale": base.guidance_rescale} if base.guidance_rescale else {}
    with torch.no_grad():
        embeds = data.texts(data.prompts)
        if own.guides(settings, base):
            embeds = guided(embeds, data.texts(torch.zeros_like(data.prompts)))
    # What is frozen may be in half precision, while the LoRA learns in single
    half = parts.denoiser.dtype
    with torch.autocast(parts.denoiser.device.type, half, enabled=half != torch.float32):
        return own.pipeline(parts, "default")(
            **own.arguments(settings, embeds, ()),
            **rescale,
            width=side_px,
            height=side_px,
            num_inference_steps=STEPS,
            generator=[torch.Generator().manual_seed(SEED + number) for number in range(len(data.prompts))],
            callback_on_step_end=on_step_end,
        ).images
