"""Guidance for a part of the steps, against diffusers pipelines whose guidance a callback turns on and off."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from PIL import Image

from engine import families
from engine.adapters import Control, attach
from engine.errors import BadSettings
from engine.generation import render
from engine.settings import GenerateSettings
from tests.tiny import SIDE_PX, make_tiny_base, make_tiny_sdxl

STEPS, SCALE = 6, 3.0
SETTINGS = GenerateSettings(
    prompt="a red mug on a table",
    negative_prompt="blue",
    width=SIDE_PX,
    height=SIDE_PX,
    steps=STEPS,
    guidance_scale=SCALE,
    seed=5,
)
BATCHES = ("prompt_embeds", "add_text_embeds", "add_time_ids", "image")


@dataclass
class Tiny:
    folder: Path
    base: families.Base
    parts: Any

    def draw(self, settings: GenerateSettings, **attachments: Any) -> np.ndarray:
        pipeline = families.family(self.base.family).pipeline(self.parts, "default")
        with attach(self.parts, **attachments) as attached:
            return np.asarray(render(pipeline, settings, self.base, attached=attached))


def load(make: Callable[[Path], Path], models: Path) -> Tiny:
    torch.set_num_threads(1)
    folder = make(models / "tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIPOD_MODELS", str(models))
        base = families.base("tiny")
        return Tiny(folder, base, families.family(base.family).load(base, torch.float32, "cpu"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return load(make_tiny_base, tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def tiny_xl(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return load(make_tiny_sdxl, tmp_path_factory.mktemp("models"))


def guided_until(pipeline: Any, last: int, **inputs: Any) -> np.ndarray:
    """The picture of a pipeline that is guided in its first `last` steps: afterwards it gets the positive halves."""
    pipeline.set_progress_bar_config(disable=True)
    tensors = [name for name in BATCHES if name in pipeline._callback_tensor_inputs]

    def turn_off(pipeline: Any, step: int, timestep: Any, halves: dict[str, Any]) -> dict[str, Any]:
        if step + 1 != last:
            return {}
        pipeline._guidance_scale = 0.0
        return {name: tensor.chunk(2)[-1] for name, tensor in halves.items()}

    return np.asarray(
        pipeline(
            SETTINGS.prompt,
            negative_prompt=SETTINGS.negative_prompt,
            width=SIDE_PX,
            height=SIDE_PX,
            num_inference_steps=STEPS,
            guidance_scale=SCALE,
            generator=torch.Generator("cpu").manual_seed(SETTINGS.seed),
            callback_on_step_end=turn_off,
            callback_on_step_end_tensor_inputs=tensors,
            **inputs,
        ).images[0]
    )


def test_an_interval_that_ends_early(tiny: Tiny) -> None:
    drawn = tiny.draw(SETTINGS.replace(guidance_end=0.5))
    assert not np.array_equal(drawn, tiny.draw(SETTINGS))
    assert np.array_equal(drawn, guided_until(StableDiffusionPipeline.from_pretrained(tiny.folder), STEPS // 2))


def test_an_interval_that_ends_early_on_xl(tiny_xl: Tiny) -> None:
    drawn = tiny_xl.draw(SETTINGS.replace(guidance_end=0.5))
    expected = guided_until(StableDiffusionXLPipeline.from_pretrained(tiny_xl.folder), STEPS // 2)
    assert np.array_equal(drawn, expected)


def test_an_interval_that_starts_late(tiny: Tiny) -> None:
    pipeline: Any = StableDiffusionPipeline.from_pretrained(tiny.folder)
    pipeline.set_progress_bar_config(disable=True)
    with torch.no_grad():
        positive, negative = pipeline.encode_prompt(SETTINGS.prompt, "cpu", 1, True, SETTINGS.negative_prompt)

    def turn_on(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step + 1 != STEPS // 2:
            return {}
        pipeline._guidance_scale = SCALE
        return {"prompt_embeds": torch.cat([negative, positive])}

    expected = pipeline(
        prompt_embeds=positive,
        width=SIDE_PX,
        height=SIDE_PX,
        num_inference_steps=STEPS,
        guidance_scale=1.0,
        generator=torch.Generator("cpu").manual_seed(SETTINGS.seed),
        callback_on_step_end=turn_on,
        callback_on_step_end_tensor_inputs=["prompt_embeds"],
    ).images[0]
    assert np.array_equal(tiny.draw(SETTINGS.replace(guidance_start=0.5)), np.asarray(expected))


def test_a_control_follows_the_interval(tiny: Tiny) -> None:
    random = np.random.default_rng(1)
    layout = Image.fromarray(random.integers(0, 256, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8))
    controlnet = families.family("sd15").load_controlnet(tiny.base, "canny", torch.float32, "cpu")
    plain: Any = StableDiffusionControlNetPipeline.from_pretrained(
        tiny.folder, controlnet=ControlNetModel.from_pretrained(tiny.folder / "controlnet-canny")
    )
    expected = guided_until(plain, STEPS // 2, image=layout, controlnet_conditioning_scale=0.8)
    control = Control(controlnet=controlnet, image=layout, strength=0.8)
    assert np.array_equal(tiny.draw(SETTINGS.replace(guidance_end=0.5), controls=[control]), expected)


def test_the_whole_interval_and_a_rescale_are_the_pipeline_s_own(tiny: Tiny) -> None:
    plain = StableDiffusionPipeline.from_pretrained(tiny.folder)
    assert np.array_equal(tiny.draw(SETTINGS), guided_until(plain, STEPS))
    rescaled = replace(tiny, base=replace(tiny.base, guidance_rescale=0.7))
    expected = guided_until(plain, STEPS, guidance_rescale=0.7)
    assert not np.array_equal(expected, tiny.draw(SETTINGS))
    assert np.array_equal(rescaled.draw(SETTINGS), expected)


def test_unguided_steps_take_half_the_work_and_leave_no_trace(tiny: Tiny) -> None:
    batches: list[int] = []
    hook = tiny.parts.unet.conv_in.register_forward_hook(lambda _, inputs, output: batches.append(len(output)))
    before = tiny.draw(SETTINGS)
    tiny.draw(SETTINGS.replace(guidance_start=0.4, guidance_end=0.7))
    hook.remove()
    assert batches == [2] * STEPS + [1, 1, 1, 2, 1, 1]
    assert np.array_equal(tiny.draw(SETTINGS), before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in tiny.parts.unet.modules())


def test_an_interval_must_end_after_it_starts() -> None:
    with pytest.raises(BadSettings, match=r"Guidance starts at 0\.6 and ends at 0\.6\. Let it end after it starts"):
        SETTINGS.replace(guidance_start=0.6, guidance_end=0.6)
