"""Pictures on the way: the same prompts from the same seeds, made by the model as it is being trained.

diffusers' pipeline makes them, in full precision, so that they are what the finished LoRA will give.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from engine.families import Base, Components, family, guided
from engine.settings import TrainSettings
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


def draw_samples(
    base: Base, parts: Components, data: TrainingData, side_px: int, before_each_step: Callable[[], None]
) -> "list[Image]":
    """One picture per sample prompt. `before_each_step` may raise to stop."""
    import torch

    def on_step_end(*_: object) -> dict:
        before_each_step()
        return {}

    with torch.no_grad():
        embeds = guided(data.texts(data.prompts), data.texts(torch.zeros_like(data.prompts)))
    pipeline = family(base.family).pipeline(parts, "default")
    return pipeline(
        **embeds,
        width=side_px,
        height=side_px,
        num_inference_steps=STEPS,
        guidance_scale=base.default_guidance,
        guidance_rescale=base.guidance_rescale,
        generator=[torch.Generator().manual_seed(SEED + number) for number in range(len(data.prompts))],
        callback_on_step_end=on_step_end,
    ).images
