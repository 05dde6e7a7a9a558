"""Pictures of the families with a transformer that start from a picture, against diffusers' own pipelines for it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from engine import families
from engine.generation import render
from engine.settings import GenerateSettings, StartImage
from engine.start_picture import start_from
from tests.tiny import SIDE_PX
from tests.tiny_transformers import (
    KINDS,
    make_tiny_flux,
    make_tiny_flux2,
    make_tiny_qwen_image,
    make_tiny_sd3,
    make_tiny_z_image,
)

MAKERS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "flux": ("Flux", make_tiny_flux),
    "qwen_image": ("QwenImage", make_tiny_qwen_image),
    "z_image": ("ZImage", make_tiny_z_image),
    "flux2": ("Flux2Klein", make_tiny_flux2),
    "sd3": ("StableDiffusion3", partial(make_tiny_sd3, latent_channels=16)),  # as diffusers' inpainting asks for
}
CFG = 3.0
GUIDANCE = {"QwenImage": {"true_cfg_scale": CFG}, "ZImage": {"guidance_scale": CFG - 1}}  # Z-Image counts from 0
SETTINGS = GenerateSettings(
    prompt="a red mug",
    negative_prompt="blue",
    base="tiny",
    width=SIDE_PX,
    height=SIDE_PX,
    steps=5,
    guidance_scale=CFG,
    seed=5,
)


@dataclass
class Tiny:
    title: str
    folder: Path
    base: families.Base
    parts: Any

    def draw(self, settings: GenerateSettings, mask: Image.Image | None) -> np.ndarray:
        """As drawn, before what is not masked is put back."""
        assert settings.start is not None
        pipeline = families.family(self.base.family).pipeline(self.parts, "default", settings.task)
        start = start_from(settings.start, picture(), mask, SIDE_PX, SIDE_PX)
        return np.asarray(render(pipeline, settings, self.base, start=replace(start, whole=None)))

    def expected(self, task: str, settings: GenerateSettings, **inputs: Any) -> np.ndarray:
        assert settings.start is not None
        if self.title == "Flux2Klein":  # where inpainting does both
            task, inputs = "Inpaint", {"mask_image": Image.new("L", (SIDE_PX, SIDE_PX), 255)} | inputs
        plain: Any = getattr(diffusers, f"{self.title}{task}Pipeline").from_pretrained(self.folder)
        plain.set_progress_bar_config(disable=True)
        inputs |= (
            KINDS["flux2"].negative(plain, settings)
            if self.title == "Flux2Klein"
            else {"negative_prompt": settings.negative_prompt}
        )
        drawn = plain(
            settings.prompt,
            image=picture(),
            width=SIDE_PX,
            height=SIDE_PX,
            num_inference_steps=settings.steps,
            strength=settings.start.strength,
            generator=torch.Generator("cpu").manual_seed(settings.seed),
            **GUIDANCE.get(self.title, {"guidance_scale": CFG}),
            **inputs,
        )
        return np.asarray(drawn.images[0])


@pytest.fixture(scope="module", params=MAKERS)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tiny]:
    torch.set_num_threads(1)
    title, make = MAKERS[request.param]
    models = tmp_path_factory.mktemp("models")
    folder = make(models / "tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIPOD_MODELS", str(models))
        base = families.base("tiny")
        yield Tiny(title, folder, base, families.family(base.family).load(base, torch.float32, "cpu"))


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8))


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_a_start_is_diffusers_img2img(tiny: Tiny, strength: float) -> None:
    settings = SETTINGS.replace(start=StartImage(image="-", strength=strength))
    assert np.array_equal(tiny.draw(settings, None), tiny.expected("Img2Img", settings))


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_a_mask_is_diffusers_inpainting(tiny: Tiny, strength: float) -> None:
    settings = SETTINGS.replace(start=StartImage(image="-", mask="-", strength=strength))
    mask = Image.new("L", (SIDE_PX, SIDE_PX))
    mask.paste(255, (8, 16, 40, 56))
    assert np.array_equal(tiny.draw(settings, mask), tiny.expected("Inpaint", settings, mask_image=mask))


def test_a_preview_is_of_what_is_drawn_alone(tiny: Tiny) -> None:
    seen: list[torch.Size] = []

    def look(_: Any, args: Any, kwargs: Any, output: Any) -> None:
        seen.append(tiny.parts.clean_latents(tiny.parts.scheduler, args, kwargs, output).shape)

    hook = tiny.parts.denoiser.register_forward_hook(look, with_kwargs=True)
    tiny.draw(SETTINGS.replace(steps=1, guidance_scale=1.0, start=StartImage(image="-", strength=1.0)), None)
    hook.remove()
    assert seen == [tiny.parts.latents_of(torch.zeros(1, 3, SIDE_PX, SIDE_PX)).shape]
